"""The name of a loss in which a token's gradient depends on the other tokens of its batch.

Most such losses do the same to all tokens of a batch: they shift a token's weight, as a baseline
does, or shift and scale it, as whitening does. That is seen exactly. A shift changes no expected
gradient. A scale makes of a loss a direction, whose length each batch sets. What does neither is
known by sampling alone.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lab.check.candidates import Candidate
from kd_lab.check.forms import Loss
from kd_lab.check.naming import Named, name_gradients
from kd_lab.check.sampling import BATCHES, LEVEL, SAME, SIZE, batch_gradient, sampled_gradients
from kd_lab.check.situations import Situations

AGAIN = 2**31  # to a seed: what one sample refuses must be refused by another
SAMPLED = (
    f"its name is by sampling, {SIZE * BATCHES:,} tokens in each situation; a draw refuses a right "
    f"one in {100 * LEVEL:.0f}% of cases, and a second draw is asked before one is refused"
)
SHIFTED = "each batch shifts its tokens' weights alike, which has no expected gradient"
SCALED = "each batch scales its tokens' weights: the loss has a direction, and no length of its own"


class Alike(NamedTuple):
    """Gradients of a loss whose batches shift and scale the weights of all their tokens alike."""

    gradients: Tensor  # in expectation, as one batch scales them, [S, V]
    scales: bool  # whether batches differ in scale; a shift alone has no expected gradient


def name_of_batches(
    loss: Loss, at: Situations, known: Sequence[Candidate], seed: int = 0
) -> tuple[Named, str]:
    """The name, and in words how it was found.

    Raises:
        ValueError: a gradient that is not finite, with the situation.
    """
    together = alike(loss, at, seed)
    if together is not None and together.scales:
        named, how = _scaled(together, loss, at, known, seed), SCALED
    else:
        named, how = _by_sampling(loss, at, known, seed), SAMPLED
        exact = name_gradients(together.gradients, at, known) if together is not None else None
        if exact is not None and _names(exact) != _names(named):  # noise hides a small part
            named, how = exact, SHIFTED
        elif not named.is_explained:  # gradients have heavier tails than a normal's
            again = _by_sampling(loss, at, known, seed + AGAIN)
            named = again if again.is_explained else named
    return named, f"a token's gradient depends on the other tokens of its batch: {how}"


def alike(loss: Loss, at: Situations, seed: int = 0) -> Alike | None:
    """The gradients, if each batch shifts and scales all weights alike; None where it does not.

    A token's weight is the loss's derivative to its log-probability. A shift has no expected
    gradient where the student writes the tokens, and only there.
    """
    if not loss.is_on_policy:
        return None
    draw = torch.Generator().manual_seed(seed)
    words = torch.arange(at.teacher_logits.shape[-1])
    rows, scales = [], False
    for teacher, student in zip(at.teacher_logits, at.student_logits, strict=True):
        of_words = []  # by batch: the weight of each word
        for _ in range(2):
            others = torch.randint(0, len(words), words.shape, generator=draw)
            tokens = torch.cat([words, others])
            weights = _weights(loss, teacher, student, tokens)
            if weights is None or _differs(weights, weights[tokens]):
                return None
            of_words.append(weights[words])
        first, second = (weights - weights.mean() for weights in of_words)
        factor = float((first @ second) / first.square().sum().clamp(min=1e-300))
        if factor <= 0 or _differs(second, factor * first):
            return None
        scales |= abs(factor - 1) > SAME
        share = student.softmax(-1)
        pull = share * of_words[0]  # Σ q·w·∇log q
        rows.append(2 * len(words) * (pull - pull.sum() * share))
    return Alike(torch.stack(rows), scales)


def _by_sampling(loss: Loss, at: Situations, known: Sequence[Candidate], seed: int) -> Named:
    sampled = sampled_gradients(loss, at, seed)
    return name_gradients(sampled.mean, at, known, sampled)


def _scaled(
    together: Alike, loss: Loss, at: Situations, known: Sequence[Candidate], seed: int
) -> Named:
    """The exact direction, at the lengths that a run's batches give it on average."""
    mean, exact = sampled_gradients(loss, at, seed).mean, together.gradients
    lengths = (mean * exact).sum(-1) / exact.square().sum(-1)
    named = name_gradients(lengths[:, None] * exact, at, known)
    if not named.is_explained or named.is_zero or named.times or len(named.parts) > 1:
        return named
    # One length in all situations is chance: the loss has none of its own.
    ((candidate, length),) = named.parts
    return dataclasses.replace(named, parts=((candidate, 1.0),), times=(length, length))


def _names(named: Named) -> list[Candidate]:
    return [candidate for candidate, _ in named.parts] if named.is_explained else []


def _weights(loss: Loss, teacher: Tensor, student: Tensor, tokens: Tensor) -> Tensor | None:
    """Of each of B tokens the derivative to its log-probability, [B]; None: it has another."""
    found = batch_gradient(loss, teacher, student, tokens)
    toward = F.one_hot(tokens, len(student)) - student.softmax(-1)  # ∇log q
    weights = (found * toward).sum(-1) / toward.square().sum(-1)
    return None if _differs(found, weights[:, None] * toward) else weights


def _differs(a: Tensor, b: Tensor) -> bool:
    return not bool((a - b).norm() <= SAME * b.norm())
