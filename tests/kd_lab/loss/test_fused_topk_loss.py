"""The fused loss with a stored teacher: top-k log-probabilities and one bucket for the rest."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lab.divergences import get_divergence
from kd_lab.loss import (
    DistillationLoss,
    fused_linear_distillation_loss,
    fused_linear_topk_distillation_loss,
)
from tests.helpers.loss_problem import EVERY_DIVERGENCE, Products, problem


def stored(tensors, k: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    logp = (tensors[2] @ tensors[3].t() / temperature).log_softmax(-1)
    return tuple(logp.topk(k))


def run_stored(tensors, k: int, temperature: float = 1.0, **settings) -> DistillationLoss:
    logp, tokens = stored(tensors, k, temperature)
    hidden, head, _, _, labels = tensors
    return fused_linear_topk_distillation_loss(
        hidden, head, logp, tokens, labels, temperature=temperature, chunk_size=16, **settings
    )


@EVERY_DIVERGENCE
def test_all_tokens_stored_is_a_live_teacher(name):
    tensors, same = problem(dtype=torch.float64), problem(dtype=torch.float64)
    divergence = get_divergence(name)
    found = run_stored(tensors, k=101, temperature=2.0, divergence=divergence)
    expected = fused_linear_distillation_loss(*same, divergence=divergence, temperature=2.0)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-10)
    found.loss.backward()
    expected.loss.backward()
    torch.testing.assert_close(tensors[0].grad, same[0].grad)
    torch.testing.assert_close(tensors[1].grad, same[1].grad)


@EVERY_DIVERGENCE
@pytest.mark.parametrize("k", [1, 5, 100])
def test_stored_teacher_against_explicit_buckets(name, k):
    tensors, same = problem(dtype=torch.float64), problem(dtype=torch.float64)
    found = run_stored(tensors, k, divergence=name, alpha=0.7)
    found.loss.backward()
    hidden, head, _, _, labels = same
    trained = labels != -100
    logp, tokens = (part[trained] for part in stored(same, k))
    student = (hidden[trained] @ head.t()).log_softmax(-1)
    kept = student.gather(-1, tokens)
    others = student.masked_fill(
        torch.zeros_like(student).scatter(-1, tokens, 1).bool(), -math.inf
    ).logsumexp(-1, keepdim=True)
    tail = (1 - logp.exp().sum(-1, keepdim=True)).log()
    divergence = get_divergence(name)(torch.cat([logp, tail], -1), torch.cat([kept, others], -1))
    cross_entropy = F.cross_entropy(student, labels[trained])
    expected = 0.7 * divergence.mean() + 0.3 * cross_entropy
    expected.backward()
    assert found.divergence.item() == pytest.approx(divergence.mean().item(), rel=1e-8)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-8)
    torch.testing.assert_close(tensors[0].grad, hidden.grad)
    torch.testing.assert_close(tensors[1].grad, head.grad)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl"])
def test_bucketing_can_only_lower_a_kl(name):
    tensors = problem(dtype=torch.float64)
    with torch.no_grad():
        values = [run_stored(tensors, k, divergence=name).divergence for k in range(1, 102, 5)]
        exact = fused_linear_distillation_loss(*tensors, divergence=name).divergence
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise(values))
    assert values[-1].item() == pytest.approx(exact.item(), rel=1e-9)


def test_a_stored_teacher_saves_a_product():
    tensors = problem()
    logp, tokens = stored(tensors, 5)
    with Products() as seen:
        fused_linear_topk_distillation_loss(*tensors[:2], logp, tokens, tensors[-1])
    assert seen.count == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stored_in_sixteen_bits(dtype):
    tensors = problem()
    logp, tokens = stored(tensors, 64)
    arguments = tokens, tensors[-1]
    rounded = fused_linear_topk_distillation_loss(*tensors[:2], logp.to(dtype), *arguments)
    exact = fused_linear_topk_distillation_loss(*tensors[:2], logp, *arguments)
    assert rounded.divergence.item() == pytest.approx(exact.divergence.item(), rel=3e-2)


def test_stored_refusals():
    hidden, head, _, _, labels = tensors = problem()
    logp, tokens = stored(tensors, 5)
    with pytest.raises(ValueError, match="sums to a probability of"):
        fused_linear_topk_distillation_loss(hidden, head, logp.exp(), tokens, labels)
    with pytest.raises(ValueError, match=r"must both be \[37, k\]"):
        fused_linear_topk_distillation_loss(hidden, head, logp, tokens[:, :4], labels)
    with pytest.raises(ValueError, match="outside the 101 rows"):
        fused_linear_topk_distillation_loss(hidden, head, logp, tokens + 100, labels)


@pytest.mark.parametrize("name", ["reverse_kl", "adaptive_kl"])
def test_a_tail_smaller_than_what_rounding_leaves(name):
    """Of a nearly one-hot teacher 1 - Σ top k is 0 in float32; the tail's logarithm is -50."""
    hidden, head, teacher_hidden, teacher_head, labels = problem()
    teacher = teacher_hidden @ teacher_head.t()
    teacher[:, 7] += 60
    logp, tokens = teacher.log_softmax(-1).topk(5)
    tail = teacher.scatter(-1, tokens, -math.inf).logsumexp(-1) - teacher.logsumexp(-1)
    assert tail.max() < -30
    found = fused_linear_topk_distillation_loss(
        hidden, head, logp, tokens, labels, topk_tail=tail, divergence=name, alpha=1.0
    )
    found.loss.backward()
    student = (hidden.double() @ head.double().t()).log_softmax(-1)
    rest = student.scatter(-1, tokens, -math.inf).logsumexp(-1, keepdim=True)
    expected = get_divergence(name)(
        torch.cat([logp, tail[:, None]], -1).double(),
        torch.cat([student.gather(-1, tokens), rest], -1),
    )[labels != -100]
    assert found.loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    assert hidden.grad.isfinite().all()


def test_refused_tails():
    hidden, head, _, _, labels = tensors = problem()
    topk = stored(tensors, 5)
    with pytest.raises(ValueError, match=r"topk_tail is \[36\], expected \[37\]"):
        fused_linear_topk_distillation_loss(hidden, head, *topk, labels, topk_tail=torch.zeros(36))
    with pytest.raises(ValueError, match="sums to a probability of 1"):
        fused_linear_topk_distillation_loss(hidden, head, *topk, labels, topk_tail=torch.zeros(37))
