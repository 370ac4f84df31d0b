"""The name of a gradient: one of the candidates, or a sum of two, or a direction, or none.

A gradient that was sampled is compared at a stated level of false refusals. Noise hides small
differences, so that only a candidate without settings is a name for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lab.check.candidates import CROSS_ENTROPY, Candidate, over_words
from kd_lab.check.families import ALL
from kd_lab.check.fit import Fit, Parts
from kd_lab.check.sampling import Sampled
from kd_lab.check.search import direction, explain
from kd_lab.check.situations import Situations
from kd_lab.divergences import get_divergence

ZERO = 1e-6  # of what divergences' gradients are long: a gradient that is none
SHOWN = 6  # candidates
REVERSE = Candidate("reverse_kl", (), over_words(get_divergence("reverse_kl")))
TRIED = {REVERSE, CROSS_ENTROPY, *(member for family in ALL for member in family.members)}


@dataclass(frozen=True)
class Named:
    """A gradient's name.

    Attributes:
        parts: candidates and their coefficients; empty where the expected gradient is zero.
        unexplained: the residual's length by the gradient's, in [0, 1].
        tolerance: the residual that is no objection; larger for a sampled gradient.
        times: the smallest and largest coefficient over situations, where one alone does not do:
            the direction is the candidate's, the length is not.
        cosines: of the gradient with the nearest candidates, name -> [S], the nearest first.
        lengths: the gradient's length by that of reverse KL, [S].
    """

    parts: Parts
    unexplained: float
    tolerance: float
    times: tuple[float, float] | None
    cosines: dict[str, list[float]]
    lengths: list[float]

    @property
    def is_zero(self) -> bool:
        """Whether the expected gradient is zero."""
        return not self.parts

    @property
    def is_explained(self) -> bool:
        """Whether nothing of note remains."""
        return self.is_zero or self.unexplained < self.tolerance

    @property
    def words(self) -> str:
        """``0.3 forward_kl + 0.7 cross_entropy``."""
        if self.is_zero:
            return "nothing: the expected gradient is zero"
        parts = [
            candidate.words if abs(c - 1) < 5e-3 else f"{c:.3g} {candidate.words}"
            for candidate, c in self.parts
        ]
        if self.is_explained and self.times:
            low, high = self.times
            return (
                f"the direction of {self.parts[0][0].words}, {low:.2g} to {high:.2g} times as long"
            )
        if self.is_explained:
            return " + ".join(parts)
        return f"none of the known losses (nearest: {' + '.join(parts)})"


def name_gradients(
    ours: Tensor,
    at: Situations,
    known: Sequence[Candidate],
    sampled: Sampled | None = None,
    thorough: bool = True,
) -> Named:
    """The name of a loss by its gradients [S, V] in the situations.

    Args:
        sampled: where the gradients were sampled, how far they may be off.
        thorough: as for ``name_vectors``.
    Raises:
        ValueError: a gradient that is not finite, with the situation.
    """
    for row, name in zip(ours, at.names, strict=True):
        if not row.isfinite().all():
            raise ValueError(f"the gradient is not finite where the student is {name}")
    tried, kept = TRIED.union(known), _kept(at.as_bytes())

    def gradients_of(candidate: Candidate) -> Tensor:
        if candidate not in tried:
            return candidate.gradients(at)
        if candidate not in kept:
            kept[candidate] = candidate.gradients(at)
        return kept[candidate]

    return name_vectors(ours, known, gradients_of, sampled, thorough)


@lru_cache(maxsize=4)
def _kept(situations: bytes) -> dict[Candidate, Tensor]:
    """Gradients in these situations of what is tried for every loss."""
    return {}


def name_vectors(
    ours: Tensor,
    known: Sequence[Candidate],
    gradients_of: Callable[[Candidate], Tensor],
    sampled: Sampled | None = None,
    thorough: bool = True,
) -> Named:
    """The name of gradients [S, M] to anything, among those [S, M] of each candidate.

    Args:
        thorough: also look for settings and temperatures between those that are tried.
    """
    theirs = torch.stack([gradients_of(candidate) for candidate in known])  # [candidates, S, M]
    usual = theirs.norm(dim=-1).median(0).values  # [S]
    reverse = gradients_of(REVERSE)
    lengths = (ours.norm(dim=-1) / reverse.norm(dim=-1)).tolist()
    fit = Fit(ours, gradients_of, usual, sampled)
    if fit.ours.norm() <= max(ZERO, fit.noise):
        return Named((), 0.0, fit.tolerance, None, {}, lengths)
    left = torch.tensor([fit.one(gradients)[1] for gradients in theirs])
    cosines: dict[str, list[float]] = {}
    for i in left.argsort().tolist():  # of a family the nearest alone
        if known[i].name not in {name.partition(" (")[0] for name in cosines}:
            cosines[known[i].words] = F.cosine_similarity(ours, theirs[i], dim=-1).tolist()
    cosines = dict(list(cosines.items())[:SHOWN])
    if sampled is not None:  # noise cannot tell settings, sums and directions apart
        plain = [i for i, candidate in enumerate(known) if not candidate.settings]
        known, theirs, left = [known[i] for i in plain], theirs[plain], left[plain]
    parts, unexplained = explain(fit, known, theirs, left, thorough)
    if unexplained >= fit.tolerance and (found := direction(fit, known, theirs, thorough)):
        candidate, coefficients, unexplained = found
        times = (min(coefficients), max(coefficients))
        return Named(((candidate, 1.0),), unexplained, fit.tolerance, times, cosines, lengths)
    return Named(parts, unexplained, fit.tolerance, None, cosines, lengths)
