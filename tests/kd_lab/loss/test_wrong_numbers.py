"""What would give an infinite, a NaN or a negative loss is refused, with its name."""

import pytest
import torch
from torch import Tensor

from kd_lab.divergences import forward_kl
from kd_lab.loss import (
    fused_linear_distillation_loss,
    fused_linear_topk_distillation_loss,
    plain_distillation_loss,
    token_log_probs,
)
from tests.helpers.loss_problem import problem

NAN, INF = float("nan"), float("inf")


def top(tensors: tuple[Tensor, ...], k: int = 5) -> tuple[Tensor, Tensor]:
    return tuple((tensors[2] @ tensors[3].t()).log_softmax(-1).detach().topk(k))


def topk_loss(logp: Tensor, tokens: Tensor, **settings):
    hidden, head, _, _, labels = problem()
    return fused_linear_topk_distillation_loss(hidden, head, logp, tokens, labels, **settings)


@pytest.mark.parametrize("num_items", [0, -3, NAN, INF, torch.tensor(0), torch.tensor(-1.0)])
def test_a_divisor_that_is_none(num_items):
    with pytest.raises(ValueError, match="num_items must be a positive number, not"):
        fused_linear_distillation_loss(*problem(), num_items=num_items)
    with pytest.raises(ValueError, match="num_items must be a positive number, not"):
        topk_loss(*top(problem()), num_items=num_items)


def test_no_trained_token_needs_no_divisor():
    *tensors, labels = problem()
    nothing = torch.full_like(labels, -100)
    assert fused_linear_distillation_loss(*tensors, nothing, num_items=0).loss == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, NAN, INF])
def test_a_temperature_that_is_none(temperature):
    hidden, head, *_, labels = tensors = problem()
    with pytest.raises(ValueError, match="temperature must be positive, not"):
        fused_linear_distillation_loss(*tensors, temperature=temperature)
    with pytest.raises(ValueError, match="temperature must be positive, not"):
        topk_loss(*top(tensors), temperature=temperature)
    with pytest.raises(ValueError, match="temperature must be positive, not"):
        token_log_probs(hidden, head, labels.clamp(min=0), temperature=temperature)
    logits, ids = torch.randn(1, 4, 9), torch.arange(4)[None]
    with pytest.raises(ValueError, match="temperature must be positive, not"):
        plain_distillation_loss(logits, logits, ids, forward_kl, temperature=temperature)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("part", ["divergence", "cross_entropy"])
def test_a_weight_that_is_not_finite(part, value):
    *_, labels = problem()
    trained = int((labels != -100).nonzero()[1])
    weights = torch.ones(len(labels))
    weights[trained] = value
    said = f"{part}_weights are infinite or NaN at trained position 1 "
    with pytest.raises(FloatingPointError, match=said):
        fused_linear_distillation_loss(*problem(), **{f"{part}_weights": weights})


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_stored_teacher_that_is_not_finite(value):
    logp, tokens = top(problem())
    tail = torch.log1p(-logp.exp().sum(-1))
    for broken in ("logp", "tail"):
        parts = {"logp": logp.clone(), "tail": tail.clone()}
        parts[broken][4] = value
        with pytest.raises(ValueError, match=r"probability of (nan|inf) at position 4"):
            topk_loss(parts["logp"], tokens, topk_tail=parts["tail"])
        if broken == "logp":
            with pytest.raises(ValueError, match=r"probability of (nan|inf) at position 4"):
                topk_loss(parts["logp"], tokens)


def test_a_stored_teacher_that_is_no_distribution():
    """Without the rest of its probability a teacher would have a negative divergence."""
    logp, tokens = top(problem())
    with pytest.raises(ValueError, match=r"sums to a probability of 0\.\d+ at position"):
        topk_loss(logp, tokens, topk_tail=torch.full((len(logp),), -torch.inf))


def test_a_token_twice_at_a_position():
    logp, tokens = top(problem())
    tokens[7, 3] = tokens[7, 0]
    with pytest.raises(ValueError, match="topk_tokens has a token twice at position 7"):
        topk_loss(logp - 1, tokens)
