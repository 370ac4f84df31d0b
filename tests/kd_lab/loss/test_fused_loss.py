"""The fused loss with a live teacher against dense logits, float64 and autograd."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lab.divergences import forward_kl, get_divergence
from kd_lab.loss import fused_linear_distillation_loss
from tests.helpers.loss_problem import EVERY_DIVERGENCE, Products, dense, problem, relative_error


def check(tensors, tolerance: float, divergence, alpha: float, temperature: float, **settings):
    student_hidden, student_head, *rest = tensors
    found = fused_linear_distillation_loss(
        *tensors, divergence=divergence, alpha=alpha, temperature=temperature, **settings
    )
    found.loss.backward()
    hidden = student_hidden.detach().double().requires_grad_()
    head = student_head.detach().double().requires_grad_()
    loss, mean_divergence, cross_entropy = dense(
        hidden, head, *rest, divergence, alpha, temperature
    )
    loss.backward()
    assert found.loss.item() == pytest.approx(loss.item(), rel=tolerance)
    assert found.divergence.item() == pytest.approx(mean_divergence.item(), rel=tolerance)
    assert found.cross_entropy.item() == pytest.approx(cross_entropy.item(), rel=tolerance)
    assert found.num_tokens == (rest[-1] != -100).sum()
    assert relative_error(student_hidden.grad, hidden.grad) <= tolerance
    assert relative_error(student_head.grad, head.grad) <= tolerance


@EVERY_DIVERGENCE
@pytest.mark.parametrize("temperature", [0.5, 1, 2])
@pytest.mark.parametrize("alpha", [0, 0.5, 1])
@pytest.mark.parametrize("shape", [(37, 101, 101), (300, 257, 263), (130, 263, 257)])
def test_loss_and_gradients_float32(name, temperature, alpha, shape):
    """Fewer and more tokens than a chunk; equal heads, and either one the larger."""
    check(problem(*shape), 1e-5, get_divergence(name), alpha, temperature, chunk_size=64)


@EVERY_DIVERGENCE
@pytest.mark.parametrize("alpha", [0.5, 1])
def test_loss_and_gradients_bfloat16(name, alpha):
    # Total variation's gradient jumps where p = q, so that the rounding of the logits to 8 bits
    # flips a sign here and there whatever is done after it.
    tolerance = 6e-2 if name == "total_variation" else 2e-2
    tensors = problem(300, 257, 263, torch.bfloat16)
    check(tensors, tolerance, get_divergence(name), alpha, 1.0, chunk_size=64)


@pytest.mark.parametrize("settings", [{"mu": 0.8}, {"mu": 0.3, "crossing": "tail"}])
def test_settings_reach_the_closed_form(settings):
    check(problem(), 1e-5, get_divergence("adaptive_kl", **settings), 1, 1.0)


@pytest.mark.parametrize(
    ("alpha", "beta"), [(1, 0), (0, 1), (2, 0), (0.5, 0.5), (1, 1), (0.05, 1.3), (1.5, 0.2)]
)
def test_all_exponents_of_alpha_beta(alpha, beta):
    check(problem(), 1e-5, get_divergence("alpha_beta", alpha=alpha, beta=beta), 1, 1.0)


@pytest.mark.parametrize("threshold", [0, 3.1, 100])
def test_all_thresholds_of_entropy_aware_kl(threshold):
    """At 3.1 nats the teacher is sure at a part of the positions."""
    check(problem(), 1e-5, get_divergence("entropy_aware_kl", threshold=threshold), 1, 1.0)


@pytest.mark.parametrize("share", [0, 0.01, 0.7, 1])
@pytest.mark.parametrize(
    ("name", "setting"),
    [("jensen_shannon", "beta"), ("skew_forward_kl", "alpha"), ("skew_reverse_kl", "alpha")],
)
def test_all_shares_of_a_mixture(name, setting, share):
    tensors = problem()
    divergence = get_divergence(name, **{setting: share})
    if share == 1 or (name == "jensen_shannon" and share == 0):
        found = fused_linear_distillation_loss(*tensors, divergence=divergence, alpha=1)
        found.loss.backward()
        assert found.loss.item() == pytest.approx(0, abs=1e-6)
        assert tensors[0].grad.abs().max() < 1e-6
    else:
        check(tensors, 2e-5, divergence, 1, 1.0)


@pytest.mark.parametrize("share", [1e-4, 1e-9])
@pytest.mark.parametrize("name", ["skew_forward_kl", "skew_reverse_kl"])
def test_small_shares_where_one_model_hardly_says_a_word(name, share):
    """Log-ratios beyond 17: in float32 the share is then all that is left of the mixture."""
    student_hidden, student_head, teacher_hidden, teacher_head, labels = problem()
    far = [student_hidden * 8, student_head, teacher_hidden * 8, teacher_head]
    tensors = [part.detach().requires_grad_(n < 2) for n, part in enumerate(far)]
    check((*tensors, labels), 2e-5, get_divergence(name, alpha=share), 1, 1.0)


def test_a_divergence_that_the_loss_has_never_heard_of():
    def squared_hellinger(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
        return 1 - (0.5 * (teacher_logp + student_logp)).exp().sum(-1)

    check(problem(300, 257, 263), 1e-5, squared_hellinger, 0.7, 2.0, chunk_size=64)


def test_gradcheck():
    tensors = problem(9, 11, 13, torch.float64)
    inputs = [tensor[:, :6].detach().requires_grad_() for tensor in tensors[:2]]  # of 24 wide
    for name in ("forward_kl", "jensen_shannon", "skew_reverse_kl"):
        assert torch.autograd.gradcheck(
            lambda hidden, head, name=name: (
                fused_linear_distillation_loss(
                    hidden, head, *tensors[2:], divergence=name, temperature=2.0, chunk_size=4
                ).loss
            ),
            inputs,
        )


@pytest.mark.parametrize("fraction", ["all", "some", "one"])
def test_means_are_over_trained_tokens(fraction):
    *tensors, labels = problem()
    if fraction == "all":
        labels = labels.clamp(min=0)
    elif fraction == "one":
        labels[2:] = -100
    check([*tensors, labels], 1e-5, forward_kl, 0.5, 1.0, chunk_size=16)


def test_no_trained_token_gives_zero_and_zero_gradients():
    *tensors, labels = problem()
    found = fused_linear_distillation_loss(*tensors, torch.full_like(labels, -100))
    found.loss.backward()
    assert found == (0, 0, 0, 0)
    assert torch.equal(tensors[0].grad, torch.zeros_like(tensors[0]))
    assert torch.equal(tensors[1].grad, torch.zeros_like(tensors[1]))


def test_micro_batches_add_up_under_num_items():
    tensors = problem(60)
    whole = fused_linear_distillation_loss(*tensors)
    whole.loss.backward()
    expected = [tensor.grad.clone() for tensor in tensors[:2]]
    again = problem(60)
    hidden, head, teacher_hidden, teacher_head, labels = again
    total = 0.0
    for some in slice(0, 13), slice(13, 60):
        part = fused_linear_distillation_loss(
            hidden[some], head, teacher_hidden[some], teacher_head, labels[some],
            num_items=torch.tensor(whole.num_tokens),
        )  # fmt: skip
        part.loss.backward()
        total += part.loss.item()
    assert total == pytest.approx(whole.loss.item(), rel=1e-6)
    for tensor, gradient in zip(again, expected, strict=False):
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-5, atol=1e-8)


def test_biases():
    tensors = problem(50, 40, 43, torch.float64)
    bias = torch.randn(40, dtype=torch.float64, requires_grad=True)
    teacher_bias = torch.randn(43, dtype=torch.float64)
    biases = {"student_bias": bias, "teacher_bias": teacher_bias}
    fused_linear_distillation_loss(*tensors, chunk_size=7, **biases).loss.backward()
    found = [t.grad.clone() for t in (*tensors[:2], bias)]
    for tensor in (*tensors[:2], bias):
        tensor.grad = None
    dense(*tensors, forward_kl, **biases)[0].backward()
    for gradient, tensor in zip(found, (*tensors[:2], bias), strict=True):
        torch.testing.assert_close(gradient, tensor.grad)


def test_tied_embeddings():
    _, head, teacher_hidden, teacher_head, labels = problem(dtype=torch.float64)
    inputs = labels.clamp(min=0).roll(1)
    found = fused_linear_distillation_loss(
        F.embedding(inputs, head), head, teacher_hidden, teacher_head, labels, chunk_size=8
    )
    found.loss.backward()
    gradient, head.grad = head.grad, None
    dense(F.embedding(inputs, head), head, teacher_hidden, teacher_head, labels, forward_kl)[
        0
    ].backward()
    torch.testing.assert_close(gradient, head.grad)


def test_autocast_computes_low_and_accumulates_high():
    tensors = problem(100)
    with torch.autocast("cpu", torch.bfloat16):
        fused_linear_distillation_loss(*tensors, chunk_size=16).loss.backward()
    found = [tensor.grad.clone() for tensor in tensors[:2]]
    for tensor in tensors[:2]:
        tensor.grad = None
    dense(*tensors, forward_kl)[0].backward()
    for gradient, tensor in zip(found, tensors, strict=False):
        assert gradient.dtype == torch.float32
        assert 1e-4 < relative_error(gradient, tensor.grad) < 2e-2


def test_same_input_same_bits():
    first, second = problem(300, 257, 263), problem(300, 257, 263)
    for tensors in first, second:
        fused_linear_distillation_loss(*tensors, chunk_size=64).loss.backward()
    assert torch.equal(first[0].grad, second[0].grad)
    assert torch.equal(first[1].grad, second[1].grad)


@pytest.mark.parametrize(
    ("frozen", "products"), [("nothing", 4), ("head", 3), ("hidden", 3), ("everything", 2)]
)
def test_number_of_matrix_products(frozen, products):
    tensors = problem()
    tensors[0].requires_grad_(frozen in ("nothing", "head"))
    tensors[1].requires_grad_(frozen in ("nothing", "hidden"))
    with Products() as seen:
        found = fused_linear_distillation_loss(*tensors)
        if found.loss.requires_grad:
            found.loss.backward()
    assert seen.count == products


def test_no_gradient_products_without_grad_mode():
    with Products() as seen, torch.no_grad():
        fused_linear_distillation_loss(*problem())
    assert seen.count == 2


def test_untrained_positions_are_dropped_before_any_product():
    tensors = problem(300)
    tensors[-1][5:] = -100
    with Products() as seen:
        fused_linear_distillation_loss(*tensors)
    assert seen.positions == (tensors[-1] != -100).sum()


def test_without_a_teacher_it_is_plain_sft():
    hidden, head, *_, labels = problem()
    found = fused_linear_distillation_loss(hidden, head, None, None, labels, alpha=0)
    found.loss.backward()
    gradient, head.grad = head.grad, None
    expected = F.cross_entropy(hidden @ head.t(), labels)
    expected.backward()
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert math.isnan(found.divergence)
    torch.testing.assert_close(gradient, head.grad)


@EVERY_DIVERGENCE
def test_value_where_teacher_and_student_nearly_agree(name):
    """KL around 1e-4 nats at Qwen2.5's vocabulary, right to 1%; and nothing below -1e-7."""
    generator = torch.Generator().manual_seed(0)
    rows, width = 151_936, 8
    head = torch.randn(rows, width, generator=generator) * 2
    hidden = torch.randn(6, width, generator=generator)
    noise = torch.randn(6, width, generator=generator)
    labels = torch.arange(6)
    for size in (0.0, 1e-5, 1e-3, 5e-3):
        inputs = hidden + size * noise, head, hidden, head, labels
        found = fused_linear_distillation_loss(*inputs, divergence=name, alpha=1)
        assert found.divergence >= -1e-7
        expected = dense(*inputs, get_divergence(name))[1].item()
        if expected > 1e-5:
            assert found.divergence.item() == pytest.approx(expected, rel=1e-2)
        else:
            assert found.divergence.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("whose", ["student", "teacher"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_logit_that_is_not_finite_is_reported(whose, value):
    hidden, head, teacher_hidden, teacher_head, labels = problem()
    with torch.no_grad():
        (hidden if whose == "student" else teacher_hidden)[7] = value  # 0, 3 and 6 have no label
    with pytest.raises(FloatingPointError, match=f"{whose}'s logits .* at trained position 4 "):
        fused_linear_distillation_loss(hidden, head, teacher_hidden, teacher_head, labels)


def test_a_second_backward_pass_gives_the_same():
    tensors = problem()
    found = fused_linear_distillation_loss(*tensors)
    first = torch.autograd.grad(3 * found.loss, tensors[:2], retain_graph=True)
    second = torch.autograd.grad(3 * found.loss, tensors[:2])
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.5}, "alpha must lie in"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
        ({"divergence": "foward_kl"}, "did you mean 'forward_kl'"),
        ({"vocab_size": 102}, "vocab_size 102 exceeds the teacher's 101 rows"),
        ({"vocab_size": 50}, "outside the 50 rows"),
        ({"student_hidden": torch.zeros(37, 23)}, r"student_hidden is \[37, 23\]"),
        ({"teacher_hidden": torch.zeros(36, 40)}, r"teacher_hidden is \[36, 40\]"),
        ({"teacher_hidden": None}, "both"),
        ({"teacher_hidden": None, "teacher_head": None}, "needs alpha = 0"),
    ],
)
def test_refusals(change, message):
    names = "student_hidden", "student_head", "teacher_hidden", "teacher_head", "labels"
    arguments = dict(zip(names, problem(), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        fused_linear_distillation_loss(**arguments)
