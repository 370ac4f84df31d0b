"""Per-position weights in the fused losses, and the log-probabilities of given tokens."""

import pytest
import torch
import torch.nn.functional as F

from kd_lab.divergences import get_divergence
from kd_lab.loss import fused_linear_distillation_loss, fused_linear_topk_distillation_loss
from kd_lab.loss.token_log_probs import token_log_probs
from tests.helpers.loss_problem import EVERY_DIVERGENCE, problem


def draw_weights(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of both signs, some of them 0, as a policy gradient has them."""
    generator = torch.Generator().manual_seed(n)
    both = torch.randn(2, n, generator=generator, dtype=torch.float64) * 3
    both[:, ::5] = 0
    return both[0], both[1]


@EVERY_DIVERGENCE
@pytest.mark.parametrize("alpha", [0, 0.3, 1])
@pytest.mark.parametrize("given", ["both", "divergence", "cross_entropy"])
def test_weights_against_autograd_on_dense_logits(name, alpha, given):
    temperature, num_items = 2.0, 11.0
    tensors = problem(60, 40, 43, torch.float64)
    on_divergence, on_tokens = draw_weights(60)
    weights = {"divergence_weights": on_divergence, "cross_entropy_weights": on_tokens}
    if given != "both":
        weights = {f"{given}_weights": weights[f"{given}_weights"]}
    found = fused_linear_distillation_loss(
        *tensors, divergence=name, alpha=alpha, temperature=temperature,
        chunk_size=16, num_items=num_items, **weights,
    )  # fmt: skip
    found.loss.backward()
    gradients = [tensor.grad.clone() for tensor in tensors[:2]]

    hidden, head, teacher_hidden, teacher_head, labels = problem(60, 40, 43, torch.float64)
    trained = labels != -100
    student = hidden[trained] @ head.t()
    teacher = teacher_hidden[trained] @ teacher_head[:40].t()
    divergence = get_divergence(name)(
        (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    )
    cross_entropy = F.cross_entropy(student, labels[trained], reduction="none")
    on_divergence, on_tokens = (
        weights.get(f"{part}_weights", torch.ones(60))[trained]
        for part in ("divergence", "cross_entropy")
    )
    loss = (
        alpha * temperature**2 * (on_divergence * divergence).sum()
        + (1 - alpha) * (on_tokens * cross_entropy).sum()
    ) / num_items
    loss.backward()
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-10)
    assert found.divergence.item() == pytest.approx(divergence.sum().item() / num_items)
    assert found.cross_entropy.item() == pytest.approx(cross_entropy.sum().item() / num_items)
    for gradient, tensor in zip(gradients, (hidden, head), strict=True):
        torch.testing.assert_close(gradient, tensor.grad, rtol=1e-9, atol=1e-12)


def test_weights_of_one_change_no_bit():
    plain, weighted = problem(), problem()
    ones = torch.ones(37)
    fused_linear_distillation_loss(*plain).loss.backward()
    fused_linear_distillation_loss(
        *weighted, divergence_weights=ones, cross_entropy_weights=ones
    ).loss.backward()
    assert torch.equal(plain[0].grad, weighted[0].grad)
    assert torch.equal(plain[1].grad, weighted[1].grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_with_weights(dtype):
    tensors, exact = problem(60, 40, 43, dtype), problem(60, 40, 43, torch.float64)
    weights = dict(
        zip(("divergence_weights", "cross_entropy_weights"), draw_weights(60), strict=True)
    )
    for some in tensors, exact:
        fused_linear_distillation_loss(*some, chunk_size=16, **weights).loss.backward()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for low, high in zip(tensors[:2], exact[:2], strict=True):
        assert (low.grad.double() - high.grad).norm() <= tolerance * high.grad.norm()


def test_weights_with_a_stored_teacher():
    tensors, same = problem(dtype=torch.float64), problem(dtype=torch.float64)
    logp, tokens = (tensors[2] @ tensors[3].t()).log_softmax(-1).topk(101)
    weights = dict(
        zip(("divergence_weights", "cross_entropy_weights"), draw_weights(37), strict=True)
    )
    found = fused_linear_topk_distillation_loss(*tensors[:2], logp, tokens, tensors[-1], **weights)
    expected = fused_linear_distillation_loss(*same, **weights)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-10)
    found.loss.backward()
    expected.loss.backward()
    torch.testing.assert_close(tensors[0].grad, same[0].grad)
    torch.testing.assert_close(tensors[1].grad, same[1].grad)


@pytest.mark.parametrize("part", ["divergence", "cross_entropy"])
def test_weights_of_another_length_are_refused(part):
    with pytest.raises(ValueError, match=rf"{part}_weights is \[36\], expected \[37\]"):
        fused_linear_distillation_loss(*problem(), **{f"{part}_weights": torch.ones(36)})


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocab_size", [None, 90])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)]
)
def test_token_log_probs(temperature, vocab_size, dtype, tolerance):
    hidden, head, *_ = problem(dtype=torch.float64)
    bias = torch.linspace(-1, 1, len(head), dtype=torch.float64)
    tokens = torch.arange(37)
    found = token_log_probs(
        hidden.to(dtype), head.to(dtype), tokens,
        bias=bias.to(dtype), temperature=temperature, chunk_size=16, vocab_size=vocab_size,
    )  # fmt: skip
    logits = (hidden @ head.t() + bias)[:, :vocab_size] / temperature
    expected = logits.log_softmax(-1)[torch.arange(37), tokens].detach()
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    assert not found.requires_grad


def test_token_log_probs_agree_with_the_loss():
    hidden, head, *_, labels = problem()
    labels = labels.clamp(min=0)
    loss = fused_linear_distillation_loss(hidden, head, None, None, labels, alpha=0)
    found = token_log_probs(hidden, head, labels)
    assert -found.mean().item() == pytest.approx(loss.cross_entropy.item(), rel=1e-6)
    assert len(token_log_probs(hidden[:0], head, labels[:0])) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(36, 24)}, r"hidden is \[36, 24\], expected \[37, 24\]"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
        ({"vocab_size": 102}, "the head's 101 rows"),
        ({"vocab_size": 36}, "outside the 36 rows"),
    ],
)
def test_token_log_probs_refusals(change, message):
    hidden, head, *_ = problem()
    arguments = {"hidden": hidden, "head": head, "tokens": torch.arange(37)} | change
    with pytest.raises(ValueError, match=message):
        token_log_probs(**arguments)
