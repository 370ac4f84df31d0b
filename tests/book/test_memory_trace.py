"""What is counted as alive, on programs whose memory can be counted by hand."""

import gc

import pytest
import torch
import torch.nn.functional as F

from book.memory_trace import MemoryTrace
from kd_lab.divergences import forward_kl
from kd_lab.loss import fused_linear_distillation_loss
from tests.helpers.loss_problem import Products, problem

UNIT = 4 * 1000  # bytes of a float32 tensor of 1,000


def alive(trace: MemoryTrace) -> list[tuple[str, float]]:
    return [(moment.operation, moment.total / UNIT) for moment in trace.moments]


def test_made_held_and_dropped():
    given = torch.ones(1000)
    with MemoryTrace() as trace:
        a = given * 2
        b = a.exp()
        del a
        b = b + 1  # the old one is alive until the new one has its name
        b.neg_()
    assert alive(trace) == [("mul", 1), ("exp", 2), ("add", 2), ("neg_", 1)]
    assert trace.peak().by_operation == {"mul": UNIT, "exp": UNIT}
    assert trace.count("exp", "neg_") == 2


def test_views_and_given_memory_count_nothing():
    given, place = torch.ones(10, 100), torch.empty(10, 100)
    with MemoryTrace() as trace:
        given.t()
        torch.exp(given, out=place)
        given.view(-1)[3:].mul_(2)
    assert {total for _, total in alive(trace)} == {0}


def test_what_autograd_keeps_is_alive_until_its_backward_pass():
    x = torch.ones(1000, requires_grad=True)
    with MemoryTrace() as trace:
        loss = x.exp().exp().sum()
        held = trace.moments[-1].total
        loss.backward()
        del loss
        torch.zeros(1)
    assert held == 2 * UNIT + 4  # both results, for their derivatives, and the sum
    assert trace.moments[-1].total == UNIT + 4  # the gradient, and the zero


def test_after_the_block_nothing_is_recorded():
    with MemoryTrace() as trace:
        a = torch.ones(1000)
    del a
    gc.collect()
    torch.ones(1000)
    assert alive(trace) == [("ones", 1)]


def test_an_empty_trace_has_no_peak():
    with MemoryTrace() as trace:
        pass
    with pytest.raises(ValueError, match="nothing was recorded"):
        trace.peak()


def test_the_losses_hold_what_is_said_of_them():
    """As loss/chunks.py and notebook 7 count: ten and a quarter logit tensors, or 1.5 tiles."""
    hidden, head, teacher_hidden, teacher_head, labels = problem(64, 4096, 4096)
    labels = labels.clamp(min=0)
    unit = 64 * 4096 * 4
    with MemoryTrace() as whole:
        teacher, student = teacher_hidden @ teacher_head.t(), hidden @ head.t()
        mean = forward_kl(teacher.log_softmax(-1), student.log_softmax(-1)).mean()
        (0.5 * mean + 0.5 * F.cross_entropy(student, labels)).backward()
    assert whole.peak().total / unit == pytest.approx(10.25, abs=0.01)
    hidden.grad = head.grad = None
    with Products() as products, MemoryTrace() as fused:
        fused_linear_distillation_loss(
            hidden, head, teacher_hidden, teacher_head, labels, chunk_size=16
        ).loss.backward()
    assert fused.count("mm", "addmm_") == products.count == 4 * 4 + 4  # a half tile at a time
    assert fused.peak().by_operation["new_empty"] / unit == pytest.approx(1.5 * 16 / 64)
