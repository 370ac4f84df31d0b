import math

import pytest

from kd_lab.divergences import forward_kl, get_divergence, reverse_kl
from toy.best_gaussian import best_gaussian
from toy.mixture import Mixture


@pytest.mark.parametrize(
    "target",
    [
        Mixture((-3, 3), (0.5, 0.5), (0.5, 0.5)),
        Mixture((-1, 4), (0.3, 2.0), (0.8, 0.2)),
        Mixture((0, 1, 30), (0.2, 0.2, 0.2), (0.4, 0.4, 0.2)),
    ],
)
def test_forward_kl_matches_the_targets_mean_and_variance(target):
    """Maximum likelihood in an exponential family: its moments are the target's."""
    parts = list(zip(target.mu, target.sigma, target.weight, strict=True))
    mean = sum(w * m for m, _, w in parts)
    variance = sum(w * (s**2 + (m - mean) ** 2) for m, s, w in parts)
    best = best_gaussian(target, forward_kl)
    assert best.mu == pytest.approx(mean, abs=1e-5)
    assert best.sigma == pytest.approx(math.sqrt(variance), abs=1e-5)


@pytest.mark.parametrize("weight", [0.5, 0.7, 0.95])
def test_reverse_kl_takes_the_heavier_mode_and_pays_minus_log_of_its_weight(weight):
    best = best_gaussian(Mixture((-3, 3), (0.5, 0.8), (weight, 1 - weight)), reverse_kl)
    if weight > 0.5:
        assert best.mu == pytest.approx(-3, abs=1e-3)
        assert best.sigma == pytest.approx(0.5, abs=1e-3)
    assert best.divergence == pytest.approx(-math.log(weight), abs=1e-3)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jensen_shannon", "adaptive_kl"])
def test_a_gaussian_is_its_own_best_gaussian(name):
    best = best_gaussian(Mixture((1.3,), (0.7,), (1.0,)), get_divergence(name))
    assert (best.mu, best.sigma) == pytest.approx((1.3, 0.7), abs=1e-4)
    assert best.divergence == pytest.approx(0, abs=1e-8)
