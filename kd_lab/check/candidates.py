"""What a gradient can be the gradient of: every divergence of the registry, and their relatives.

A candidate is a function of the student's logits at one position whose gradient autograd takes. A
loss of k stored words is held against each divergence under each of the five conventions for the
words outside of the top k.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lab.check.situations import Situations
from kd_lab.divergences import DIVERGENCES, Divergence, get_divergence

# Divergences whose setting is looked for: its name, and the values that are tried.
FAMILIES = {
    "jensen_shannon": (
        "beta",
        (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98),
    ),
    "skew_forward_kl": ("alpha", (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)),
    "skew_reverse_kl": ("alpha", (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)),
    "adaptive_kl": ("mu", (0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9)),
}
# Not among the candidates. alpha_beta has forward and reverse KL and the squared error of
# probabilities in it: families.py looks for its two exponents where no simpler name explains.
# entropy_aware_kl is the sum of both KLs at the teachers of situations.py, which are all unsure.
SEARCHED, NOT_NAMED = "alpha_beta", "entropy_aware_kl"
# The log-probability that stands for a word that has none, where someone gives it one.
NOTHING = -100.0
# Whose temperature is changed, and how a name says so.
WARM = {
    "both": "",
    "teacher": " against a teacher whose temperature alone is changed",
    "student": " of a student whose temperature alone is changed",
}

Value = Callable[[Situations, Tensor], Tensor]


class Candidate(NamedTuple):
    """A name, its settings, and the values [S] in nats whose gradients are taken."""

    name: str
    settings: tuple[tuple[str, float], ...]
    value: Callable[[Situations, Tensor], Tensor]  # of situations and the student's logits [S, V]

    @property
    def words(self) -> str:
        """``jensen_shannon (beta 0.1)``."""
        settings = ", ".join(f"{name} {value:g}" for name, value in self.settings)
        return f"{self.name} ({settings})" if settings else self.name

    def gradients(self, at: Situations) -> Tensor:
        """To the student's logits, [S, V]."""
        logits = at.student_logits.clone().requires_grad_()
        (found,) = torch.autograd.grad(self.value(at, logits).sum(), logits)
        return found


@dataclass(frozen=True)
class Tail:
    """What a loss of k words does with the others: both distributions over what it compares."""

    words: str
    teacher: Callable[[Tensor, Tensor], Tensor]  # log p [S, V], tokens [S, k] -> what it compares
    student: Callable[[Tensor, Tensor], Tensor]


def _bucket(logp: Tensor, tokens: Tensor) -> Tensor:
    return torch.cat([_cut(logp, tokens), _tail(logp, tokens)], -1)


def _tail(logp: Tensor, tokens: Tensor) -> Tensor:
    """The log-mass of the other words, [S, 1]."""
    return logp.scatter(-1, tokens, -math.inf).logsumexp(-1, keepdim=True)


def _cut(logp: Tensor, tokens: Tensor) -> Tensor:
    return logp.gather(-1, tokens)


def _renormalised(logp: Tensor, tokens: Tensor) -> Tensor:
    return _cut(logp, tokens).log_softmax(-1)


def _spread(logp: Tensor, tokens: Tensor) -> Tensor:
    """The tail's mass, evenly over its words."""
    even = _tail(logp, tokens) - math.log(logp.shape[-1] - tokens.shape[-1])
    return even.expand_as(logp).scatter(-1, tokens, _cut(logp, tokens))


def _scattered(logp: Tensor, tokens: Tensor) -> Tensor:
    return torch.full_like(logp, NOTHING).scatter(-1, tokens, _cut(logp, tokens))


def _whole(logp: Tensor, tokens: Tensor) -> Tensor:
    return logp


# Sums over what a tail convention leaves, which need not be distributions: plain, with no term that
# is 0 only where both sum to one. The divergences of the registry have such terms.
def _forward_sum(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    return (teacher_logp.exp() * (teacher_logp - student_logp)).sum(-1)


def _reverse_sum(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    return _forward_sum(student_logp, teacher_logp)


def _mixture_sum(beta: float) -> Divergence:
    def value(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
        mixture = torch.logaddexp(teacher_logp + math.log(beta), student_logp + math.log1p(-beta))
        forward, reverse = _forward_sum(teacher_logp, mixture), _forward_sum(student_logp, mixture)
        return beta * forward + (1 - beta) * reverse

    return value


SUMS: tuple[tuple[str, tuple[tuple[str, float], ...], Divergence], ...] = (
    ("forward_kl", (), _forward_sum),
    ("reverse_kl", (), _reverse_sum),
    *(
        ("jensen_shannon", (("beta", beta),), _mixture_sum(beta))
        for beta in (0.1, 0.3, 0.5, 0.7, 0.9)
    ),
    ("total_variation", (), get_divergence("total_variation")),
)

TAILS = (
    Tail("the tail in one bucket", _bucket, _bucket),
    Tail("truncated: the words outside are left out", _cut, _cut),
    Tail("teacher renormalised, student whole", _renormalised, _cut),
    Tail("both renormalised on the top k", _renormalised, _renormalised),
    Tail("words outside at a fixed tiny probability", _scattered, _whole),
    Tail("words outside share the tail evenly", _spread, _whole),
)


def divergences() -> Iterator[tuple[str, tuple[tuple[str, float], ...], Divergence]]:
    """Each divergence of the registry with its settings; families at all values that are tried."""
    for name in DIVERGENCES:
        if name in (SEARCHED, NOT_NAMED):
            continue
        if name not in FAMILIES:
            yield name, (), get_divergence(name)
            continue
        setting, values = FAMILIES[name]
        for value in values:
            yield name, ((setting, value),), get_divergence(name, **{setting: value})


@cache
def candidates(topk: int | None = None, whose: str = "teacher") -> tuple[Candidate, ...]:
    """All that a gradient is held against, the likeliest first; the same objects always.

    Args:
        topk: of a loss that sees so many words; None: it sees them all.
        whose: likeliest words these are, the teacher's or the student's.
    """
    if topk is None:
        whole = (Candidate(name, settings, over_words(divergence))
                 for name, settings, divergence in divergences())  # fmt: skip
        return (*whole, *RELATIVES)
    of = "" if whose == "teacher" else " on the student's top k"
    sums = [(tail, *one) for tail in TAILS for one in SUMS]
    sums += [(TAILS[0], *one) for one in divergences()]
    return (
        *(
            Candidate(f"{name}{of}, {tail.words}", settings, _over_top(sum_of, tail, topk, whose))
            for tail, name, settings, sum_of in sums
        ),
        *RELATIVES,
    )


def warm(
    name: str, settings: Mapping[str, float], temperature: float, whose: str = "both"
) -> Candidate:
    """A divergence at a temperature: T²·D(p_T, q_T), or D where one model's alone is changed.

    Args:
        whose: a key of ``WARM``.
    """
    divergence = partial(DIVERGENCES[name], **settings)
    rounded = tuple((key, round(value, 4)) for key, value in {**settings, "T": temperature}.items())
    of_teacher = temperature if whose != "student" else 1.0
    of_student = temperature if whose != "teacher" else 1.0
    scale = temperature**2 if whose == "both" else 1.0

    def value(at: Situations, logits: Tensor) -> Tensor:
        teacher_logp = (at.teacher_logits / of_teacher).log_softmax(-1)
        return scale * divergence(teacher_logp, (logits / of_student).log_softmax(-1))

    return Candidate(f"{name}{WARM[whose]}", rounded, value)


def tempered_like(
    candidate: Candidate, temperature: float
) -> Iterator[tuple[str, bool, Candidate]]:
    """What a temperature can do to a loss: words, whether it is a fault, and the loss then.

    T² keeps the gradient's length, which shrinks with 1/T² (Hinton et al. 2015).
    """
    square = temperature**2

    def of(teacher: float, student: float, scale: float) -> Candidate:
        def value(at: Situations, logits: Tensor) -> Tensor:
            warm = replace(at, teacher_logits=at.teacher_logits / teacher)
            return scale * candidate.value(warm, logits / student)

        return Candidate(candidate.name, candidate.settings, value)

    t = temperature
    yield "T² is there: the gradient keeps its length", False, of(t, t, square)
    yield "T² is missing: at temperature T the gradient is 1/T² as long", False, of(t, t, 1)
    yield "T stands there for T²", True, of(t, t, t)
    yield "the temperature changes the teacher alone", True, of(t, 1, 1)
    yield "the temperature changes the teacher alone, and T² is there", True, of(t, 1, square)
    yield "the temperature changes the student alone", True, of(1, t, 1)
    yield "the temperature changes the student alone, and T² is there", True, of(1, t, square)


def over_words(divergence: Divergence) -> Value:
    """A divergence between both models' whole distributions."""
    return lambda at, logits: divergence(at.teacher_logp, logits.log_softmax(-1))


def _over_top(sum_of: Divergence, tail: Tail, topk: int, whose: str) -> Value:
    def value(at: Situations, logits: Tensor) -> Tensor:
        of = at.teacher_logp if whose == "teacher" else logits.detach()
        tokens = of.topk(topk).indices
        return sum_of(
            tail.teacher(at.teacher_logp, tokens), tail.student(logits.log_softmax(-1), tokens)
        )

    return value


def _cross_entropy(at: Situations, logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, at.targets, reduction="none")


def _negative_entropy(at: Situations, logits: Tensor) -> Tensor:
    logp = logits.log_softmax(-1)
    return (logp.exp() * logp).sum(-1)


def _against_teacher(at: Situations, logits: Tensor) -> Tensor:
    return -(logits.softmax(-1) * at.teacher_logp).sum(-1)


def _logit_error(at: Situations, logits: Tensor) -> Tensor:
    return (logits - at.teacher_logits).square().mean(-1)


def _logp_error(at: Situations, logits: Tensor) -> Tensor:
    return (logits.log_softmax(-1) - at.teacher_logp).square().mean(-1)


def _probability_error(at: Situations, logits: Tensor) -> Tensor:
    return (logits.softmax(-1) - at.teacher_logp.exp()).square().sum(-1)


CROSS_ENTROPY = Candidate("cross_entropy", (), _cross_entropy)
# What is no divergence of the registry, but is found where one was meant.
RELATIVES = [
    CROSS_ENTROPY,
    Candidate("negative entropy of the student", (), _negative_entropy),
    Candidate("reverse_kl without the student's entropy", (), _against_teacher),
    Candidate("squared error of logits", (), _logit_error),
    Candidate("squared error of log-probabilities", (), _logp_error),
    Candidate("squared error of probabilities", (), _probability_error),
]
