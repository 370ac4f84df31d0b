"""16-bit weights: the gradient is right to 0.5% however near the student is to its teacher.

The reference is float64 on the same 16-bit operands. So the error is the loss's own: the rounding
of the gradient tile to an operand, 0.2%, and of the gradients to the dtype of the weights.
"""

import pytest
import torch
from torch import Tensor

from kd_lab.divergences import get_divergence
from kd_lab.loss import fused_linear_distillation_loss, fused_linear_topk_distillation_loss
from kd_lab.loss.closed_forms import closed_form
from kd_lab.teacher.signals import topk_distribution
from tests.helpers.loss_problem import EVERY_DIVERGENCE, dense, relative_error

VOCABULARY, WIDTH, POSITIONS = 30_000, 64, 6
# How many of the hidden states' 64 numbers the student has otherwise, and by what factor; forward
# KL is then about 1e-2, 5e-4 and 1e-5 nats.
NEARNESS = [(64, 0.93), (8, 0.98), (1, 0.992)]
BAR = 5e-3


def pair(moved: int, factor: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Hidden states and heads of a student and its teacher, and labels; logits reach 24."""
    generator = torch.Generator().manual_seed(0)
    head = (torch.randn(VOCABULARY, WIDTH, generator=generator) * 0.66).to(dtype)
    teacher_hidden = torch.randn(POSITIONS, WIDTH, generator=generator).to(dtype)
    student_hidden = teacher_hidden.clone()
    student_hidden[:, :moved] *= factor
    labels = torch.randint(0, VOCABULARY, (POSITIONS,), generator=generator)
    student = student_hidden.requires_grad_(), head.clone().requires_grad_()
    return *student, teacher_hidden, head, labels


def wide(student_hidden: Tensor, student_head: Tensor) -> tuple[Tensor, Tensor]:
    return (
        student_hidden.detach().double().requires_grad_(),
        student_head.detach().double().requires_grad_(),
    )


@EVERY_DIVERGENCE
@pytest.mark.parametrize("nearness", NEARNESS)
def test_bfloat16_with_a_live_teacher(name, nearness):
    student_hidden, student_head, *rest = pair(*nearness, torch.bfloat16)
    found = fused_linear_distillation_loss(
        student_hidden, student_head, *rest, divergence=name, alpha=1, chunk_size=4
    )
    found.loss.backward()
    hidden, head = wide(student_hidden, student_head)
    loss, value, _ = dense(hidden, head, *rest, get_divergence(name), 1.0)
    loss.backward()
    assert found.divergence.item() == pytest.approx(value.item(), rel=1e-3)
    assert relative_error(student_hidden.grad, hidden.grad) < BAR
    assert relative_error(student_head.grad, head.grad) < BAR


@EVERY_DIVERGENCE
def test_bfloat16_with_a_stored_teacher(name):
    student_hidden, student_head, teacher_hidden, teacher_head, labels = pair(
        *NEARNESS[1], torch.bfloat16
    )
    logits = teacher_hidden.double() @ teacher_head.double().t()
    logp, tokens = logits.log_softmax(-1).topk(16)
    tail = torch.log1p(-logp.exp().sum(-1))
    found = fused_linear_topk_distillation_loss(
        student_hidden, student_head, logp, tokens, labels, topk_tail=tail, divergence=name,
        alpha=1, chunk_size=4,
    )  # fmt: skip
    found.loss.backward()
    hidden, head = wide(student_hidden, student_head)
    student_logp = (hidden @ head.t()).log_softmax(-1)
    on_tokens = student_logp.gather(-1, tokens)
    others = student_logp.scatter(-1, tokens, -torch.inf).logsumexp(-1)
    buckets = (
        torch.cat([logp, tail[:, None]], -1), torch.cat([on_tokens, others[:, None]], -1)
    )  # fmt: skip
    get_divergence(name)(*buckets).mean().backward()
    assert relative_error(student_hidden.grad, hidden.grad) < BAR
    assert relative_error(student_head.grad, head.grad) < BAR


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_with_a_teacher_of_16_bits(dtype):
    """float32 weights of a student, and a teacher in ``dtype``; all operands are in bfloat16."""
    student_hidden, student_head, *teacher, labels = pair(*NEARNESS[1], torch.bfloat16)
    own = [t.detach().float().requires_grad_() for t in (student_hidden, student_head)]
    with torch.autocast("cpu", torch.bfloat16):
        fused_linear_distillation_loss(
            *own, *(t.to(dtype) for t in teacher), labels, alpha=1, chunk_size=4
        ).loss.backward()
    hidden, head = wide(student_hidden, student_head)
    dense(hidden, head, *teacher, labels, get_divergence("forward_kl"), 1.0)[0].backward()
    for gradient, expected in zip((t.grad for t in own), (hidden.grad, head.grad), strict=True):
        assert gradient.dtype == torch.float32
        assert relative_error(gradient, expected) < BAR


def test_the_stored_signal_of_a_bfloat16_teacher_has_float32_logits():
    _, _, hidden, head, _ = pair(*NEARNESS[0], torch.bfloat16)
    stored = topk_distribution(hidden, head, None, k=16, temperature=1.0, chunk_size=4)
    expected, tokens = (hidden.double() @ head.double().t()).log_softmax(-1).topk(16)
    assert torch.equal(stored["topk_tokens"].long(), tokens)
    # float16 holds them to one part in 2,048
    torch.testing.assert_close(stored["topk_logp"].double(), expected, rtol=6e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.95, 0.999, 0.99999])
@pytest.mark.parametrize("name", ["skew_forward_kl", "skew_reverse_kl"])
def test_float32_where_a_mixture_is_nearly_the_other_distribution(name, share):
    """By autograd and by the closed form; their gradients are of the order of (1 - alpha)²."""
    teacher = 2 * torch.randn(8, 500, generator=torch.manual_seed(0))
    student = (teacher + torch.randn(8, 500, generator=torch.manual_seed(1))).requires_grad_()
    divergence = get_divergence(name, alpha=share)
    exact = student.detach().double().requires_grad_()
    divergence(teacher.double().log_softmax(-1), exact.log_softmax(-1)).sum().backward()
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    value = divergence(p, q)
    assert value.dtype == torch.float32
    value.sum().backward()
    rule, q = closed_form(divergence), q.detach()
    assert rule is not None
    of_rule, gradient = rule(p - q, p.exp(), q.exp())
    assert of_rule.dtype == gradient.dtype == torch.float32
    for found in (student.grad, gradient):
        assert relative_error(found, exact.grad) < 1e-5
    torch.testing.assert_close(of_rule, value.detach(), rtol=1e-2, atol=0)
