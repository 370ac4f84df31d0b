"""Distillation losses as people write them: right ones, and one fault each of the rest.

The faults are those of public threads; each name says what went wrong there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100


class Case(NamedTuple):
    """A loss, how it is called, and what the check must say of it."""

    function: Callable[..., Tensor]
    expected: str  # of a right loss its name; of a fault a part of what must be said
    how: dict[str, Any] = {}  # noqa: RUF012 - a tuple's default is never changed


def trained_mean(each: Tensor, labels: Tensor) -> Tensor:
    """[B, T] and labels -> the mean over trained tokens."""
    mask = labels != IGNORED
    return torch.where(mask, each, 0).sum() / mask.sum()


def kl(a: Tensor, b: Tensor) -> Tensor:
    """D(a‖b) of logits, [..., V] -> [...]."""
    return F.kl_div(b.log_softmax(-1), a.log_softmax(-1), log_target=True, reduction="none").sum(-1)


def forward(s: Tensor, t: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    return temperature**2 * trained_mean(kl(t / temperature, s / temperature), labels)


def reverse(s: Tensor, t: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    return temperature**2 * trained_mean(kl(s / temperature, t / temperature), labels)


def jsd(s: Tensor, t: Tensor, labels: Tensor, beta: float = 0.1) -> Tensor:
    p, q = t.softmax(-1), s.softmax(-1)
    mixture = (beta * p + (1 - beta) * q).log()
    to_p = F.kl_div(mixture, p, reduction="none").sum(-1)
    to_q = F.kl_div(mixture, q, reduction="none").sum(-1)
    return trained_mean(beta * to_p + (1 - beta) * to_q, labels)


def cross_entropy(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(s.flatten(0, 1), labels.flatten())


def masked_mean(each: Tensor, mask: Tensor) -> Tensor:
    return (each * mask).sum() / mask.sum()


def k1(s: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    return masked_mean(s - t, mask)


def k2(s: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    return masked_mean(0.5 * (s - t) ** 2, mask)


def k3(s: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    return masked_mean((t - s).exp() - 1 - (t - s), mask)


def reward(s: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    return (t - s) * mask


def to_go(s: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    return reward(s, t, mask).flip(-1).cumsum(-1).flip(-1)


def top(s: Tensor, tokens: Tensor) -> Tensor:
    return s.log_softmax(-1).gather(-1, tokens)


def bucket(s: Tensor, top_logp: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    q = top(s, tokens)
    rest_p, rest_q = (torch.log1p(-x.exp().sum(-1, keepdim=True)) for x in (top_logp, q))
    p, q = torch.cat([top_logp, rest_p], -1), torch.cat([q, rest_q], -1)
    return trained_mean((p.exp() * (p - q)).sum(-1), labels)


TOKENS, ADVANTAGE, TOPK = {"form": "tokens"}, {"form": "advantage"}, {"form": "topk"}

RIGHT = {
    "forward_kl": Case(forward, "forward_kl"),
    "reverse_kl": Case(reverse, "reverse_kl"),
    "reverse_kl as a plain sum": Case(
        lambda s, t, labels: trained_mean(
            (s.softmax(-1) * (s.log_softmax(-1) - t.log_softmax(-1))).sum(-1), labels
        ),
        "reverse_kl",
    ),
    "jensen_shannon": Case(jsd, "jensen_shannon", {"expected_settings": {"beta": 0.1}}),
    "total_variation": Case(
        lambda s, t, labels: trained_mean(
            0.5 * (s.softmax(-1) - t.softmax(-1)).abs().sum(-1), labels
        ),
        "total_variation",
    ),
    "cross_entropy": Case(cross_entropy, "cross_entropy"),
    "a sum over tokens by num_items": Case(
        lambda s, t, labels: torch.where(labels != IGNORED, kl(t, s), 0).sum(), "forward_kl"
    ),
    "the teacher's cross-entropy": Case(  # forward KL but for a constant
        lambda s, t, labels: trained_mean(-(t.softmax(-1) * s.log_softmax(-1)).sum(-1), labels),
        "forward_kl",
    ),
    "k2 as a loss": Case(k2, "reverse_kl", TOKENS),
    "k1 in the advantage": Case(reward, "reverse_kl", ADVANTAGE),
    "k1 to go": Case(to_go, "sequence_reverse_kl", ADVANTAGE),
    "the whole return": Case(
        lambda s, t, mask: reward(s, t, mask).sum(-1, keepdim=True).expand_as(s),
        "sequence_reverse_kl", ADVANTAGE,
    ),
    "the likelihood of the teacher's words": Case(
        lambda s, t, mask: masked_mean(-s, mask), "forward_kl", TOKENS | {"prefixes": "teacher"}
    ),
    "a baseline of the batch's mean": Case(
        lambda s, t, mask: (t - s) - masked_mean(t - s, mask), "reverse_kl", ADVANTAGE
    ),
    "top k and a bucket": Case(bucket, "forward_kl", TOPK),
    "one that shifts by itself": Case(
        lambda s, t, labels: forward(s[:, :-1], t[:, :-1], labels[:, 1:]),
        "forward_kl", {"shifts": True},
    ),
}  # fmt: skip


def _no_softmax(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return trained_mean((t.softmax(-1) * (t.log_softmax(-1) - s)).sum(-1), labels)


def _renormalised(s: Tensor, top_logp: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    p = top_logp.log_softmax(-1)
    return trained_mean((p.exp() * (p - top(s, tokens))).sum(-1), labels)


def _both_renormalised(s: Tensor, top_logp: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    p, q = top_logp.log_softmax(-1), top(s, tokens).log_softmax(-1)
    return trained_mean((p.exp() * (p - q)).sum(-1), labels)


def _truncated(s: Tensor, top_logp: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    return trained_mean((top_logp.exp() * (top_logp - top(s, tokens))).sum(-1), labels)


def _truncated_reverse(s: Tensor, top_logp: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    q = top(s, tokens)
    return trained_mean((q.exp() * (q - top_logp)).sum(-1), labels)


def _clamped_k3(s: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    return masked_mean(((t - s).exp() - 1 - (t - s)).clamp(max=0.5), mask)


def _sampled_bucket(s: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    rest = (1 - s.exp()) * (torch.log1p(-s.exp()) - torch.log1p(-t.exp()))
    return masked_mean(s.exp() * (s - t) + rest, mask)


def _prefix_penalty(
    s: Tensor, t: Tensor, mask: Tensor, *, student_logits: Tensor, teacher_logits: Tensor
) -> Tensor:
    return -kl(student_logits, teacher_logits)


def _in_place(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    value = forward(s, t, labels)
    t.mul_(0.5)
    return value


FAULTS = {
    "the direction is swapped": Case(reverse, "it optimises reverse_kl"),
    "beta is swapped": Case(
        lambda s, t, labels: jsd(s, t, labels, 0.9), "it optimises jensen_shannon (beta 0.9)"
    ),
    "the sign is wrong": Case(
        lambda s, t, labels: -forward(s, t, labels), "makes forward_kl larger"
    ),
    "reverse KL lacks the entropy": Case(
        lambda s, t, labels: trained_mean(-(s.softmax(-1) * t.log_softmax(-1)).sum(-1), labels),
        "reverse_kl without the student's entropy",
    ),
    "the student's probabilities are detached": Case(
        lambda s, t, labels: trained_mean(
            (s.softmax(-1).detach() * (s.log_softmax(-1) - t.log_softmax(-1))).sum(-1), labels
        ),
        "its expected gradient is zero",
    ),
    "the teacher is used twice": Case(
        lambda s, t, labels: forward(t, t, labels) + 0 * s.sum(), "its expected gradient is zero"
    ),
    "the student is detached": Case(
        lambda s, t, labels: forward(s.detach(), t, labels), "its expected gradient is zero"
    ),
    "k1 as a loss": Case(k1, "its expected gradient is zero", TOKENS),
    "k3 as a loss": Case(k3, "it optimises forward_kl", TOKENS),
    "k3 is clamped": Case(_clamped_k3, "of its gradient is unexplained", TOKENS),
    "a sampled token and a bucket": Case(
        _sampled_bucket, "of its gradient is unexplained", TOKENS
    ),
    "a penalty of the prefix": Case(_prefix_penalty, "its expected gradient is zero", ADVANTAGE),
    "likelihood of one's own samples": Case(
        lambda s, t, mask: masked_mean(-s, mask), "its expected gradient is zero", TOKENS
    ),
    "the reward's sign is wrong": Case(
        lambda s, t, mask: s - t, "makes reverse_kl larger", ADVANTAGE
    ),
    "the reward is clipped": Case(
        lambda s, t, mask: (t - s).clamp(-0.5, 0.5), "of its gradient is unexplained", ADVANTAGE
    ),
    "what comes later is discounted": Case(
        lambda s, t, mask: reward(s, t, mask) + 0.5 * (to_go(s, t, mask) - reward(s, t, mask)),
        "what comes later has 0.5 times its weight", ADVANTAGE,
    ),
    "what comes later is missing": Case(
        reward, "what comes later is missing", ADVANTAGE | {"expected": "sequence_reverse_kl"}
    ),
    "truncated": Case(_truncated, "truncated: the words outside are left out", TOPK),
    "truncated reverse KL": Case(_truncated_reverse, "reverse_kl, truncated", TOPK),
    "the teacher is renormalised": Case(_renormalised, "teacher renormalised, student whole", TOPK),
    "both are renormalised": Case(_both_renormalised, "both renormalised on the top k", TOPK),
    "ignored labels are trained": Case(
        lambda s, t, labels: kl(t, s).mean() + 0 * labels.sum(), "it trains the prompt"
    ),
    "only padding is masked": Case(
        lambda s, t, labels: trained_mean(
            kl(t, s), torch.where((labels != IGNORED).cumsum(1) == 0, 0, labels)
        ),
        "it trains the prompt",
    ),
    "one position off": Case(
        lambda s, t, labels: forward(s[:, :-1], t[:, :-1], labels[:, 1:]),
        "it trains the positions one before the labels",
    ),
    "divided by all positions": Case(
        lambda s, t, labels: torch.where(labels != IGNORED, kl(t, s), 0).mean(),
        "a mean over all positions: padding makes it smaller",
    ),
    "T squared is missing": Case(
        lambda s, t, labels, temperature=1.0: forward(s, t, labels, temperature) / temperature**2,
        "T² is missing",
    ),
    "the temperature has no effect": Case(
        lambda s, t, labels, temperature=1.0: forward(s, t, labels), "temperature has no effect"
    ),
    "the teacher alone is tempered": Case(
        lambda s, t, labels, temperature=1.0: forward(s, t / temperature, labels),
        "the temperature changes the teacher alone",
    ),
    "the student alone is tempered": Case(
        lambda s, t, labels, temperature=1.0: forward(s / temperature, t, labels),
        "the temperature changes the student alone",
    ),
    "the teacher was served at another temperature": Case(
        lambda s, t, labels: forward(s, t / 0.7, labels), "a teacher whose temperature alone"
    ),
    "a softmax is missing": Case(_no_softmax, "somewhere a softmax is missing"),
    "an epsilon in the logarithm": Case(
        lambda s, t, labels: trained_mean(
            (s.softmax(-1) * ((s.softmax(-1) + 1e-2).log() - (t.softmax(-1) + 1e-2).log())).sum(-1),
            labels,
        ),
        "of its gradient is unexplained",
    ),
    "a mean over words": Case(
        lambda s, t, labels: trained_mean(kl(t, s) / s.shape[-1], labels), "0.0417 forward_kl"
    ),
    "squared error of logits": Case(
        lambda s, t, labels: trained_mean((s - t).square().mean(-1), labels),
        "it optimises squared error of logits",
    ),
    "half is cross-entropy": Case(
        lambda s, t, labels: 0.5 * forward(s, t, labels) + 0.5 * cross_entropy(s, t, labels),
        "0.5 forward_kl + 0.5 cross_entropy",
    ),
    "the first row weighs double": Case(
        lambda s, t, labels: forward(s, t, labels) + forward(s[:1], t[:1], labels[:1]),
        "it changes with the order of the rows",
    ),
    "each row counts once": Case(
        lambda s, t, labels: torch.stack(
            [forward(s[[i]], t[[i]], labels[[i]]) for i in range(len(s))]
        ).mean(),
        "a mean over rows of each row's mean",
    ),
    "the teacher is changed in place": Case(_in_place, "it changes the logits that it is given"),
    "the teacher gets a gradient": Case(forward, "the teacher gets a gradient"),
}  # fmt: skip
