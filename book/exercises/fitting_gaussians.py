"""Checks of notebook 2's exercises, each against something independent of a solution."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from book.exercises.expected import expect, pair
from kd_lab.divergences import forward_kl
from toy import best_gaussian as by_search
from toy.mixture import Mixture
from toy.mixture_fit import POST_TARGET, fit

Gaussian = Callable[[Tensor, Tensor, Tensor], tuple[Tensor | float, Tensor | float]]


def best_gaussian(answer: Gaussian) -> None:
    """Mean and standard deviation of the best Gaussian under forward KL; a search knows them."""
    for weight, other in ((0.5, 0.5), (0.9, 0.5), (0.9, 1.5)):  # of equal widths, and of different
        weights = torch.tensor([weight, 1 - weight], dtype=torch.float64)
        means, widths = torch.tensor([[-3.0, 3.0], [0.5, other]], dtype=torch.float64)
        right = by_search.best_gaussian(
            Mixture((-3, 3), (0.5, other), (weight, 1 - weight)), forward_kl
        )
        where = f"weights {weight:g} and {1 - weight:g}, means -3 and 3, widths 0.5 and {other:g}"
        mean, width = pair(answer(weights, means, widths), where)
        expect(mean, right.mu, f"{where}, the mean", atol=1e-3)
        mistakes: dict[str, Tensor | float] = {
            "that is the variance": right.sigma**2,
            "that is the width of one mode": 0.5,
            "the mean of the widths is squared there; take the mean of their squares": (
                right.sigma**2 - weights @ widths**2 + widths.mean() ** 2
            )
            ** 0.5,
            "the mean's square is still in it": (right.sigma**2 + right.mu**2) ** 0.5,
        }
        expect(width, right.sigma, f"{where}, the width", mistakes, rtol=1e-4)


def variance_when_parted(answer: Callable[[float, float], float]) -> None:
    """The variance of ½N(-d, σ²) + ½N(d, σ²), summed on a grid."""
    x = torch.linspace(-40, 40, 8001, dtype=torch.float64)
    for d, sigma in ((0.5, 2.0), (1.0, 3.0)):
        density = Mixture((-d, d), (sigma, sigma), (0.5, 0.5)).log_density(x).exp()
        variance = (density * x**2).sum() / density.sum()
        mistakes: dict[str, Tensor | float] = {
            "that is its standard deviation": variance.sqrt(),
            "parting adds nothing here": sigma**2,
            "half of d² is missing": sigma**2 + d**2 / 2,
            "that is twice too much d²": sigma**2 + 2 * d**2,
        }
        expect(answer(d, sigma), variance, f"d = {d:g}, σ = {sigma:g}", mistakes, rtol=1e-4)


def steps_of_others(answer: tuple[int, int]) -> None:
    """Steps of the dual fit under the Jensen-Shannon divergence and under adaptive KL."""
    names = ("jensen_shannon", "adaptive_kl")
    right = {
        name: fit(POST_TARGET, [-1.0, 1.0], 5.0, divergence=name, steps=200).steps_to(0.01)[0]
        for name in names
    }
    mistakes = {f"that is the other one's, {name}": float(right[name] or 0) for name in names}
    for name, steps in zip(names, answer, strict=True):
        expect(steps, float(right[name] or 0), name, mistakes, rtol=1e-9)


def when_equals_arrive(answer: float) -> None:
    """Steps of the dual fit from two equal means; infinite where they never part."""
    trajectory = fit(POST_TARGET, [1.0, 1.0], 5.0, divergence="forward_kl", steps=400)
    if trajectory.steps_to(0.01)[0] is None and answer != math.inf:
        apart = (trajectory.mu[-1, 0, 1] - trajectory.mu[-1, 0, 0]).abs()
        kl = trajectory.kl[-1, 0]
        raise AssertionError(
            f"after 400 steps the two means are {apart:g} apart, at {kl:.3f} nats: expected inf, "
            f"got {answer:g}"
        )
