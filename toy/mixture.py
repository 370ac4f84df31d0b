"""Gaussian mixtures, and the even grid on which they are summed.

At the points of an even grid, log-density plus log-spacing is a log-probability: the continuous
density becomes a vocabulary. For Gaussians such a sum is as good as the integral, if the grid holds
the mass: its error falls as exp(-2π²(σ/spacing)²). ``check_mass`` checks that it does.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MASS_TOLERANCE = 1e-6


class OffEveryGrid(ValueError):
    """A mixture so far away, or so narrow, that no grid of this size can follow it."""


class Grid(NamedTuple):
    """An even grid of ``points`` points from ``low`` to ``high``, both included."""

    low: float
    high: float
    points: int

    @property
    def spacing(self) -> float:
        return (self.high - self.low) / (self.points - 1)


# Holds a Gaussian of sigma 5 whose mean is within 15 of 0, and any sigma down to 0.05.
DEFAULT_GRID = Grid(-40.0, 40.0, 1601)


@dataclass(frozen=True)
class Mixture:
    """Σ_k weight_k · N(mu_k, sigma_k²): means, standard deviations and weights, K of each.

    Raises:
        ValueError: lengths differ, a sigma is not positive, or the weights are no distribution.
    """

    mu: tuple[float, ...]
    sigma: tuple[float, ...]
    weight: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mu", "sigma", "weight"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if not len(self.mu) == len(self.sigma) == len(self.weight) > 0:
            raise ValueError(
                f"a mixture needs as many sigmas and weights as means: got {len(self.mu)} mu, "
                f"{len(self.sigma)} sigma, {len(self.weight)} weight"
            )
        if not all(map(math.isfinite, self.mu)):
            raise ValueError(f"mu must be finite, not {_listed(self.mu)}")
        if not all(0 < sigma < math.inf for sigma in self.sigma):
            raise ValueError(f"sigma must be positive, not {_listed(self.sigma)}")
        if not all(weight >= 0 for weight in self.weight) or abs(sum(self.weight) - 1) > 1e-6:
            raise ValueError(
                f"weights must be >= 0 and sum to 1, not {_listed(self.weight)} "
                f"(they sum to {sum(self.weight):g})"
            )

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x), nats, float64; x and the result are [G]."""
        mu, sigma, weight = torch.tensor([self.mu, self.sigma, self.weight], dtype=torch.float64)
        return log_density(x.double(), mu[None], sigma.log()[None], weight.log())[0]


def log_density(x: Tensor, mu: Tensor, log_sigma: Tensor, log_weight: Tensor) -> Tensor:
    """log q(x) of S mixtures at G points, nats, [S, G]; x [G], mu and log_sigma [S, K]."""
    # The logarithm of a Gaussian is a parabola, (a·x + b)·x + c: two passes over [S, K, G].
    precision = (-2 * log_sigma).exp()
    a, b = -0.5 * precision, precision * mu  # [S, K]
    c = log_weight - log_sigma - 0.5 * math.log(2 * math.pi) - 0.5 * precision * mu**2
    line = torch.addcmul(b[..., None], a[..., None], x)
    return torch.logsumexp(torch.addcmul(c[..., None], line, x), dim=1)


def check_mass(
    grid: Grid, mu: Tensor, sigma: Tensor, weight: Tensor, whose: str | None = None
) -> None:
    """Refuse a mixture whose sum over the grid misses 1 by more than 1e-6; mu, sigma: [S, K].

    Raises:
        ValueError: mass lies off the grid, or a sigma is too narrow; names a grid that would do.
            ``OffEveryGrid`` where none would.
    """
    low_tail = torch.erfc((mu - grid.low) / (math.sqrt(2) * sigma))
    high_tail = torch.erfc((grid.high - mu) / (math.sqrt(2) * sigma))
    outside = (0.5 * (low_tail + high_tail)) @ weight  # [S]
    # The first term of Poisson's summation formula is the error of an even grid.
    ripple = (2 * torch.exp(-2 * (math.pi * sigma / grid.spacing) ** 2)) @ weight  # [S]
    missing = outside + ripple
    if bool((missing <= MASS_TOLERANCE).all()):
        return

    worst = int(torch.nan_to_num(missing, nan=math.inf).argmax())
    whose = whose or f"start {worst}"
    mu, sigma = mu[worst][weight > 0], sigma[worst][weight > 0]
    # 6 sigmas leave 2e-9 outside; a spacing of sigma is off by 5e-9.
    low = min(grid.low, float((mu - 6 * sigma).min().floor()))
    high = max(grid.high, float((mu + 6 * sigma).max().ceil()))
    intervals = (high - low) / min(grid.spacing, max(float(sigma.min()), 1e-300))
    if not intervals < 1e5:
        raise OffEveryGrid(
            f"{whose}: no grid can follow mu {_listed(mu.tolist())}, sigma "
            f"{_listed(sigma.tolist())}"
        )
    problem = (
        f"{float(outside[worst]):.1e} of the mass falls outside the grid"
        if outside[worst] > ripple[worst]
        else f"sigma {float(sigma.min()):.3g} is too narrow for the grid's spacing"
    )
    raise ValueError(
        f"{whose}: {problem} ({grid.low:g} to {grid.high:g}, spacing {grid.spacing:.3g}); "
        f"a grid of {low:g} {high:g} {math.ceil(intervals) + 1} would do"
    )


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
