"""What is tried to explain a gradient, the simplest first: one candidate, a setting between those
that are tried, two, one beside cross-entropy, any exponents of alpha_beta; then directions.

The first that leaves almost nothing is the name. One that leaves a little is the name only if no
later one leaves almost nothing: neighbouring families differ by as little at some settings.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kd_lab.check.candidates import CROSS_ENTROPY, Candidate
from kd_lab.check.families import (
    BY_SHARE,
    OUTSIDE,
    best_exponents,
    nearest_members,
    warm_mixtures,
)
from kd_lab.check.fit import PRECISE, Fit, Found

NEAREST = 8  # candidates with a setting that are tried in sums of two
MUCH = 10  # times less must a later name leave than one that explains too
Direction = tuple[Candidate, list[float], float]  # its coefficients [S], and what they leave


def explain(
    fit: Fit, known: Sequence[Candidate], theirs: Tensor, left: Tensor, thorough: bool
) -> Found:
    """The name of a gradient; where nothing explains it, the nearest candidate.

    Args:
        theirs: gradients of the known candidates, [candidates, S, M].
        left: what each alone leaves unexplained, [candidates].
        thorough: also look for settings and temperatures between those that are tried.
    """
    explains = (left < fit.tolerance).nonzero()
    first = int(explains[0]) if len(explains) else int(left.argmin())
    best = fit.candidate(known[first])
    if best[1] < fit.precise or fit.noise:  # noise hides what else it could be
        return best
    order = left.argsort().tolist()
    two: list[Callable[[], Found]] = [lambda: _two(fit, known, theirs, order)]
    settings = [
        lambda: _refined(fit, [known[i] for i in order[:3]]),
        *two,
        lambda: _beside_cross_entropy(fit),
        lambda: fit.candidate(best_exponents(lambda candidate: fit.candidate(candidate)[1])),
    ]
    for way in settings if thorough else two:
        found = way()
        if found[1] < fit.precise:
            return found
        if found[1] < (fit.tolerance if best[1] >= fit.tolerance else best[1] / MUCH):
            best = found
    return best


def direction(
    fit: Fit, known: Sequence[Candidate], theirs: Tensor, thorough: bool
) -> Direction | None:
    """The candidate whose gradient ours is in each situation, times a positive factor."""
    if fit.noise or len(fit.usual) < 2:
        return None
    best: Direction | None = None
    for candidate, gradients in zip(known, theirs, strict=True):
        coefficients, left_over = fit.each(gradients)
        if min(coefficients) > 0 and (best is None or left_over < best[2]):
            best = candidate, coefficients, left_over
    near = best if best is not None and best[2] < fit.tolerance else None
    if not thorough or (near is not None and near[2] < PRECISE):
        return near

    def left(candidate: Candidate) -> float:
        coefficients, left_over = fit.each(fit.gradients_of(candidate))
        return left_over if min(coefficients) > 0 else OUTSIDE

    for candidate in (*nearest_members(left, PRECISE), best_exponents(left)):
        if left(candidate) < PRECISE:  # with a setting besides, a little is too much
            return candidate, *fit.each(fit.gradients_of(candidate))
    return near


def _left(found: Found) -> float:
    return found[1]


def _refined(fit: Fit, nearest: Sequence[Candidate]) -> Found:
    """The nearest candidates at the best values of their settings."""

    def left(candidate: Candidate) -> float:
        return fit.candidate(candidate)[1]

    members = [
        BY_SHARE[candidate.name].refined(candidate.settings[0][1], left)
        for candidate in nearest
        if candidate.name in BY_SHARE
    ]
    return min((fit.candidate(one) for one in members if one), key=_left, default=((), math.inf))


def _two(fit: Fit, known: Sequence[Candidate], theirs: Tensor, order: Sequence[int]) -> Found:
    """The two that explain most together: of the plain ones, and of the nearest of the others; or
    any beside cross-entropy."""
    is_some = torch.tensor([not candidate.settings for candidate in known])
    is_some[order[:NEAREST]] = True
    tried = is_some[:, None] & is_some
    hard = known.index(CROSS_ENTROPY)
    tried[hard] = tried[:, hard] = True
    left = torch.where(tried.triu(1), fit.pairs(theirs), math.inf)
    nearest = left.flatten().argsort()[:NEAREST].tolist()
    pairs = sorted([*divmod(i, len(known))] for i in nearest)
    sums = [fit.sum_of([known[i] for i in pair], theirs[pair]) for pair in pairs]
    # Reverse KL is the student's entropy and the rest: its sums have more than one exact name.
    exact = [parts for parts in sums if parts[1] < fit.precise]
    return min(exact, key=_negatives) if exact else min(sums, key=_left)


def _negatives(found: Found) -> int:
    return sum(coefficient < 0 for _, coefficient in found[0])


def _beside_cross_entropy(fit: Fit) -> Found:
    """A divergence at the best share and temperature, alone or beside cross-entropy."""
    hard = fit.gradients_of(CROSS_ENTROPY)
    left = fit.beside(hard).left

    def found(candidate: Candidate) -> Found:
        alone = fit.candidate(candidate)
        if alone[1] < fit.precise:
            return alone
        both = torch.stack([fit.gradients_of(candidate), hard])
        return min(fit.sum_of([candidate, CROSS_ENTROPY], both), alone, key=_left)

    members = nearest_members(left, PRECISE)
    best = min((found(candidate) for candidate in members), key=_left, default=((), math.inf))
    if best[1] < fit.precise:
        return best
    return min([best, *map(found, warm_mixtures(left))], key=_left)
