"""Which candidate explains a gradient: one of them, or a sum of two, or none.

The gradients of all situations are one long vector, each part divided by the length that gradients
have there. A loss that is c times a divergence is so with *one* c in all situations; a different c
in each is another loss. What remains unexplained is the length of the residual by the length of the
gradient. A gradient that was sampled is compared at a stated level of false refusals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch
import torch.nn.functional as F
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor

from kd_lab.check.candidates import FAMILIES, SEARCHED, Candidate, over_words, tempered
from kd_lab.check.sampling import Sampled
from kd_lab.check.situations import Situations
from kd_lab.divergences import get_divergence

EXPLAINED = 2e-3  # of a gradient's length: less than this remains
ZERO = 1e-6  # of what divergences' gradients are long: a gradient that is none
SHOWN = 6  # candidates
EXPONENTS = (0.1, 0.4, 0.7, 1.0, 1.5)  # of alpha_beta, where its search begins


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

    parts: "Parts"
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
    ours: Tensor, at: Situations, known: Sequence[Candidate], sampled: Sampled | None = None
) -> Named:
    """The name of a loss by its gradients [S, V] in the situations.

    Args:
        sampled: where the gradients were sampled, how far they may be off.
    Raises:
        ValueError: a gradient that is not finite, with the situation.
    """
    for row, name in zip(ours, at.names, strict=True):
        if not row.isfinite().all():
            raise ValueError(f"the gradient is not finite where the student is {name}")
    return name_vectors(ours, known, lambda candidate: candidate.gradients(at), sampled)


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
    reverse = gradients_of(Candidate("reverse_kl", (), over_words(get_divergence("reverse_kl"))))
    lengths = (ours.norm(dim=-1) / reverse.norm(dim=-1)).tolist()
    fit = _Fit(ours, gradients_of, usual, sampled)
    if fit.ours.norm() <= max(ZERO, fit.noise):
        return Named((), 0.0, fit.tolerance, None, {}, lengths)
    left = torch.tensor([fit.one(gradients)[1] for gradients in theirs])
    cosines: dict[str, list[float]] = {}
    for i in left.argsort().tolist():  # of a family the nearest alone
        if known[i].name not in {name.partition(" (")[0] for name in cosines}:
            cosines[known[i].words] = F.cosine_similarity(ours, theirs[i], dim=-1).tolist()
    cosines = dict(list(cosines.items())[:SHOWN])
    parts, unexplained = _explain(fit, known, theirs, left, thorough)
    if unexplained < fit.tolerance:
        return Named(parts, unexplained, fit.tolerance, None, cosines, lengths)
    for i in left.argsort().tolist()[:SHOWN]:
        coefficients, unequal = fit.each(theirs[i])
        if unequal < fit.tolerance and min(coefficients) > 0:
            times = (min(coefficients), max(coefficients))
            return Named(((known[i], 1.0),), unequal, fit.tolerance, times, cosines, lengths)
    return Named(parts, unexplained, fit.tolerance, None, cosines, lengths)


Parts = tuple[tuple[Candidate, float], ...]


class _Fit:
    """Least squares against gradients, each situation at the length that is usual there."""

    def __init__(
        self,
        ours: Tensor,
        gradients_of: Callable[[Candidate], Tensor],
        usual: Tensor,
        sampled: Sampled | None,
    ) -> None:
        self.gradients_of, self.usual = gradients_of, usual
        self.ours = (ours / usual[:, None]).flatten()
        self.noise = 0.0 if sampled is None else sampled.tolerance(usual)
        self.tolerance = max(EXPLAINED, self.noise / float(self.ours.norm().clamp(min=1e-300)))

    def one(self, gradients: Tensor) -> tuple[float, float]:
        """A coefficient for gradients [S, V], and what they leave unexplained."""
        (coefficient,), left = self.several(gradients[None])
        return coefficient, left

    def several(self, gradients: Tensor) -> tuple[list[float], float]:
        """Coefficients for gradients [n, S, V]."""
        others = (gradients / self.usual[:, None]).flatten(1).t()
        coefficients = torch.linalg.lstsq(others, self.ours[:, None]).solution
        left = self.ours - (others @ coefficients)[:, 0]
        return coefficients[:, 0].tolist(), float(left.norm() / self.ours.norm())

    def each(self, gradients: Tensor) -> tuple[list[float], float]:
        """A coefficient in each situation, and what they leave unexplained."""
        ours, theirs = self.ours.view(gradients.shape), gradients / self.usual[:, None]
        coefficients = (ours * theirs).sum(-1) / theirs.square().sum(-1)
        left = ours - coefficients[:, None] * theirs
        return coefficients.tolist(), float(left.norm() / self.ours.norm())

    def candidate(self, candidate: Candidate) -> tuple[Parts, float]:
        coefficient, left = self.one(self.gradients_of(candidate))
        return ((candidate, coefficient),), left


def _explain(
    fit: _Fit, known: Sequence[Candidate], theirs: Tensor, left: Tensor, thorough: bool
) -> tuple[Parts, float]:
    """The first candidate that explains; a setting between those tried; a temperature; two; any
    exponents of alpha_beta."""
    explains = (left < fit.tolerance).nonzero()
    first = int(explains[0]) if len(explains) else int(left.argmin())
    best = fit.candidate(known[first])
    if best[1] < max(EXPLAINED / 10, fit.noise and fit.tolerance):
        return best
    order = left.argsort().tolist()
    thoroughly: list[Callable[[], tuple[Parts, float]]] = [
        lambda: min((_refined(fit, known[i]) for i in order[:3]), key=_left),
        lambda: min((fit.candidate(candidate) for candidate in tempered()), key=_left),
    ]
    two = [lambda: _two(fit, known, theirs, order)]
    for way in [*thoroughly, *two, lambda: _searched(fit)] if thorough else two:
        if best[1] >= fit.tolerance and (other := way())[1] < fit.tolerance:
            best = other
    return best


def _left(found: tuple[Parts, float]) -> float:
    return found[1]


def _two(
    fit: _Fit, known: Sequence[Candidate], theirs: Tensor, order: Sequence[int]
) -> tuple[Parts, float]:
    """The two that explain most together: of the plain ones, and of the nearest of the others."""
    some = sorted({*(i for i, candidate in enumerate(known) if not candidate.settings), *order[:8]})
    pairs = [list(pair) for pair in combinations(some, 2)]
    fits = [fit.several(theirs[pair]) for pair in pairs]
    (coefficients, left), pair = min(zip(fits, pairs, strict=True), key=lambda found: found[0][1])
    return tuple(zip((known[i] for i in pair), coefficients, strict=True)), left


def _searched(fit: _Fit) -> tuple[Parts, float]:
    """alpha_beta at the best exponents."""

    def at_values(values: Sequence[float]) -> Candidate:
        settings = dict(zip(("alpha", "beta"), (abs(float(x)) for x in values), strict=True))
        rounded = tuple((name, round(value, 4)) for name, value in settings.items())
        return Candidate(SEARCHED, rounded, over_words(get_divergence(SEARCHED, **settings)))

    def unexplained(values: Sequence[float]) -> float:
        return fit.candidate(at_values(values))[1]

    start = min(product(EXPONENTS, repeat=2), key=unexplained)
    best = minimize(
        unexplained, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-7}
    )
    return fit.candidate(at_values(best.x))


def _refined(fit: _Fit, candidate: Candidate) -> tuple[Parts, float]:
    """The candidate at the best value of its setting."""
    if candidate.name not in FAMILIES:
        return fit.candidate(candidate)
    setting, values = FAMILIES[candidate.name]
    here = candidate.settings[0][1]
    below = max((value for value in values if value < here), default=1e-3)
    above = min((value for value in values if value > here), default=1 - 1e-3)

    def at_value(value: float) -> Candidate:
        divergence = get_divergence(candidate.name, **{setting: value})
        return Candidate(candidate.name, ((setting, round(value, 4)),), over_words(divergence))

    best = minimize_scalar(
        lambda value: fit.candidate(at_value(value))[1], bounds=(below, above), method="bounded"
    )
    return fit.candidate(at_value(float(best.x)))
