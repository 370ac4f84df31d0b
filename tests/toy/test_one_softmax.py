"""Closed forms of one softmax against autograd on the losses, and where their flows end."""

import math
from functools import partial

import pytest
import torch

from kd_lab.divergences import forward_kl, get_divergence
from toy.one_softmax import (
    DIRECTIONS,
    SAMPLED,
    STUDENTS,
    TAILS,
    TEACHER,
    TOP,
    WORDS,
    both_kls,
    descend,
    exact_gradient,
    expected_gradient,
    topk_gradient,
    variance,
    word_gradients,
)

P = TEACHER
# The value whose gradient is taken, of log p, log q and q at the sampled word. c is a constant.
LOSSES = {
    "k1_loss": lambda p, q: q - p,
    "k1_reward": lambda p, q: (q - p).detach() * q,
    "k1_baseline": lambda p, q: (q - p).detach() * q,  # less the baseline, below
    "k2_loss": lambda p, q: 0.5 * (q - p) ** 2,
    "k3_loss": lambda p, q: (p - q).exp() - 1 - (p - q),
    "k3_reward": lambda p, q: ((p - q).exp() - 1 - (p - q)).detach() * q,
    "sampled_bucket": lambda p, q: (
        q.exp() * (q - p) + (1 - q.exp()) * (torch.log1p(-q.exp()) - torch.log1p(-p.exp()))
    ),
}


def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Σ a·log a/b of tensors that need not sum to one."""
    return (a * (a.log() - b.log())).sum()


def topk_loss(tail: str, direction: str, q: torch.Tensor) -> torch.Tensor:
    """As a trainer would compute it: the teacher's words come first here."""
    p_in, q_in, p_out, q_out = P[:TOP], q[:TOP], P[TOP:].sum(), q[TOP:].sum()
    teacher, student = {
        "bucket": lambda: (torch.cat([p_in, p_out[None]]), torch.cat([q_in, q_out[None]])),
        "truncated": lambda: (p_in, q_in),
        "clamped": lambda: (p_in, q_in),
        "teacher_renormalised": lambda: (p_in / p_in.sum(), q_in),
        "both_renormalised": lambda: (p_in / p_in.sum(), q_in / q_in.sum()),
        "fixed": lambda: (torch.cat([p_in, torch.full((4,), math.exp(-100), dtype=P.dtype)]), q),
        "even": lambda: (torch.cat([p_in, (p_out / 4).expand(4)]), q),
    }[tail]()
    value = kl(teacher, student) if direction == "forward_kl" else kl(student, teacher)
    return value.clamp(min=0) if tail == "clamped" else value


def autograd(loss, q: torch.Tensor) -> torch.Tensor:
    z = q.log().requires_grad_()
    (found,) = torch.autograd.grad(loss(z), z)
    return found


def test_words_are_in_the_teachers_order_and_sum_to_one():
    assert len(WORDS) == len(P)
    assert P.tolist() == sorted(P.tolist(), reverse=True)
    for q in (P, *STUDENTS.values()):
        assert float(q.sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("name", SAMPLED)
def test_each_sampled_word_against_autograd(name, student):
    q = STUDENTS[student]
    found = word_gradients(name, P, q)
    baseline = both_kls(P, q)[1] if name == "k1_baseline" else 0.0
    for y in range(len(q)):
        due = autograd(
            lambda z, y=y: (
                LOSSES[name](P.log()[y], z.log_softmax(-1)[y]) - baseline * z.log_softmax(-1)[y]
            ),
            q,
        )
        torch.testing.assert_close(found[y], due)


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_tails_against_autograd(direction, student):
    q = STUDENTS[student]
    whole = get_divergence(direction)
    torch.testing.assert_close(
        exact_gradient(direction, P, q),
        autograd(lambda z: whole(P.log(), z.log_softmax(-1)), q),
        atol=1e-8, rtol=1e-6,
    )  # fmt: skip
    for tail in TAILS:
        due = autograd(lambda z, tail=tail: topk_loss(tail, direction, z.softmax(-1)), q)
        torch.testing.assert_close(
            topk_gradient(tail, direction, P, q), due, msg=lambda m, tail=tail: f"{tail}: {m}"
        )


@pytest.mark.parametrize("q", STUDENTS.values(), ids=STUDENTS)
def test_what_the_expectations_are(q):
    forward, reverse = (exact_gradient(direction, P, q) for direction in DIRECTIONS)
    due = {
        "k1_loss": 0 * q,
        "k1_reward": reverse,
        "k1_baseline": reverse,
        "k2_loss": reverse,
        "k3_loss": forward,
        "k3_reward": reverse - forward,
    }
    for name, gradient in due.items():
        torch.testing.assert_close(expected_gradient(name, P, q), gradient, atol=1e-12, rtol=0)


def test_the_variance_is_that_of_samples():
    draw = torch.Generator().manual_seed(0)
    q = STUDENTS["flat"]
    for name in SAMPLED:
        each = word_gradients(name, P, q)
        drawn = each[torch.multinomial(q, 200_000, replacement=True, generator=draw)]
        spread = float((drawn - drawn.mean(0)).square().sum(1).mean())
        assert spread == pytest.approx(variance(name, P, q), rel=0.03)


@pytest.mark.slow
def test_where_the_flows_end():
    """From a flat student. The tail is the mass of the four words that are not stored."""

    def end(tail: str, direction: str) -> torch.Tensor:
        return descend(partial(topk_gradient, tail, direction, P), STUDENTS["flat"], 2000)[-1]

    inside = P[:TOP] / P[:TOP].sum()
    for direction in DIRECTIONS:
        torch.testing.assert_close(end("bucket", direction)[:TOP], P[:TOP], atol=1e-6, rtol=0)
        both = end("both_renormalised", direction)
        torch.testing.assert_close(both[:TOP] / both[:TOP].sum(), inside, atol=1e-6, rtol=0)
        assert abs(float(both[TOP:].sum() - P[TOP:].sum())) > 0.2
    even = end("even", "forward_kl")
    torch.testing.assert_close(even[TOP:], (P[TOP:].sum() / 4).expand(4), atol=1e-6, rtol=0)
    assert float(end("truncated", "forward_kl")[TOP:].sum()) < 1e-2
    truncated = end("truncated", "reverse_kl")
    torch.testing.assert_close(truncated[:TOP], P[:TOP] / math.e, atol=1e-4, rtol=0)
    renormalised = end("teacher_renormalised", "reverse_kl")
    torch.testing.assert_close(renormalised[:TOP], inside / math.e, atol=1e-4, rtol=0)
    assert float(end("fixed", "reverse_kl")[TOP:].sum()) < 1e-3
    clamped = end("clamped", "forward_kl")
    assert 0.01 < float(clamped[TOP:].sum()) < float(P[TOP:].sum())
    assert float(forward_kl(P.log(), clamped.log())) > 0.01


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match="'k4' is none of k1_loss"):
        word_gradients("k4", P, P)
    with pytest.raises(ValueError, match="'rubbish' is none of bucket"):
        topk_gradient("rubbish", "forward_kl", P, P)
