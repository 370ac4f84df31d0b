"""The one Gaussian that is closest to a mixture: no descent, the lowest point itself.

``toy.mixture_fit`` shows how a student travels; this shows its best end. It looks at means and
widths all over the target, then polishes the best one.
"""

import math
from typing import NamedTuple

import torch
from scipy.optimize import minimize
from torch import Tensor

from kd_lab.divergences import Divergence
from toy.mixture import Mixture, log_density


class BestGaussian(NamedTuple):
    """N(mu, sigma²) and its divergence from the target."""

    mu: float
    sigma: float
    divergence: float


def best_gaussian(target: Mixture, divergence: Divergence) -> BestGaussian:
    """The (mu, sigma) that minimise ``divergence(target, N(mu, sigma²))``, to about 1e-5.

    Args:
        target: the teacher p.
        divergence: any function of ``kd_lab.divergences``. It is summed in float64 over an even
            grid. The spacing is a quarter of the narrowest sigma; the grid holds 8 of the widest
            useful one.
    """
    low, high = min(target.mu), max(target.mu)
    narrow, wide = min(target.sigma), max(target.sigma) + (high - low) / 2
    points = 1 + math.ceil((high - low + 16 * wide) / (narrow / 4))
    x = torch.linspace(low - 8 * wide, high + 8 * wide, points, dtype=torch.float64)  # [G]
    log_spacing = torch.log(x[1] - x[0])
    teacher_logp = target.log_density(x) + log_spacing
    log_weight = torch.zeros(1, dtype=torch.float64)  # of the student's one component

    def distance(places: Tensor) -> Tensor:
        """The divergence at (mu, log sigma), [S]; places [S, 2]."""
        student_logp = log_density(x, places[:, :1], places[:, 1:], log_weight) + log_spacing
        return divergence(teacher_logp, student_logp)

    places = torch.cartesian_prod(
        torch.linspace(low, high, 41, dtype=torch.float64),
        torch.linspace(math.log(narrow / 2), math.log(wide), 25, dtype=torch.float64),
    )
    polished = minimize(
        lambda place: distance(torch.from_numpy(place)[None]).item(),
        places[distance(places).argmin()].numpy(),
        method="Nelder-Mead",
        options={"xatol": 1e-6, "fatol": 1e-12},
    )
    mu, log_sigma = polished.x.tolist()
    return BestGaussian(mu, math.exp(log_sigma), float(polished.fun))
