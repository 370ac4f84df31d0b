"""Least squares of a gradient against candidates' gradients, and what they leave unexplained.

The gradients of all situations are one long vector, each part divided by the length that gradients
have there. A loss that is c times a divergence is so with *one* c in all situations; a different c
in each is another loss. What remains unexplained is the length of the residual by the length of the
gradient.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kd_lab.check.candidates import Candidate
from kd_lab.check.sampling import Sampled

EXPLAINED = 2e-3  # of a gradient's length: less than this remains
PRECISE = 1e-5  # a name that leaves so little need not be held against others
Parts = tuple[tuple[Candidate, float], ...]
Found = tuple[Parts, float]  # and what it leaves unexplained


class Fit:
    """Of gradients [S, M], each situation at the length that is usual there."""

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
        self.precise = self.tolerance if sampled else PRECISE

    def one(self, gradients: Tensor) -> tuple[float, float]:
        """A coefficient for gradients [S, M], and what they leave unexplained."""
        (coefficient,), left = self.several(gradients[None])
        return coefficient, left

    def several(self, gradients: Tensor) -> tuple[list[float], float]:
        """Coefficients for gradients [n, S, M]."""
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

    def candidate(self, candidate: Candidate) -> Found:
        """One candidate with its coefficient."""
        coefficient, left = self.one(self.gradients_of(candidate))
        return ((candidate, coefficient),), left

    def sum_of(self, candidates: Sequence[Candidate], gradients: Tensor) -> Found:
        """Candidates of gradients [n, S, M]; it leaves infinity where one is no part of ours.

        A small part must explain more than is left. Else any loss would do for it: beside 97% of
        cross-entropy every divergence leaves little of the whole.
        """
        coefficients, left = self.several(gradients)
        lengths = (gradients / self.usual[:, None]).flatten(1).norm(dim=-1).tolist()
        shortest = min(abs(c) * length for c, length in zip(coefficients, lengths, strict=True))
        if left * float(self.ours.norm()) >= self.tolerance * shortest:
            left = math.inf
        return tuple(zip(candidates, coefficients, strict=True)), left

    def beside(self, gradients: Tensor) -> "Beside":
        """What is left of ours where gradients [S, M] have their best share in it."""
        return Beside(self, gradients)

    def pairs(self, gradients: Tensor) -> Tensor:
        """What each two of gradients [n, S, M] leave unexplained, [n, n]; to about 1e-7.

        By the normal equations, whose rounding is the square root of a number's.
        """
        others = (gradients / self.usual[:, None]).flatten(1)
        others = others / others.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        length = self.ours.norm()
        cosine, with_ours = others @ others.t(), others @ self.ours / length
        first, second = with_ours[:, None], with_ours[None]
        free = (1 - cosine.square()).clamp(min=1e-12)
        explained = (first**2 + second**2 - 2 * cosine * first * second) / free
        return (1 - explained).clamp(min=0).sqrt()


class Beside:
    """A fit beside one other candidate, which has been taken out of all gradients."""

    def __init__(self, fit: Fit, gradients: Tensor) -> None:
        self.fit = fit
        other = (gradients / fit.usual[:, None]).flatten()
        self.other = other / other.norm()
        self.ours = self._without(fit.ours)

    def left(self, candidate: Candidate) -> float:
        """What a candidate leaves of that which the other does not explain."""
        gradients = self.fit.gradients_of(candidate) / self.fit.usual[:, None]
        theirs = self._without(gradients.flatten())
        coefficient = (self.ours @ theirs) / theirs.square().sum().clamp(min=1e-300)
        return float((self.ours - coefficient * theirs).norm() / self.ours.norm())

    def _without(self, vector: Tensor) -> Tensor:
        return vector - (vector @ self.other) * self.other
