"""Pictures of notebook 2: frames side by side, divergence over steps, landscapes with paths.

As in ``book.pictures``, each function returns a Figure that pyplot does not know.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from book.pictures import FORWARD, FORWARD_NAME, REVERSE, REVERSE_NAME
from kd_lab.house_style import Figure, house_style
from toy.mixture import log_density
from toy.mixture_fit import Objective, Trajectory


@house_style()
def fit_snapshots(forward: Trajectory, reverse: Trajectory, steps: Sequence[int]) -> Figure:
    """Target and student at some steps: forward KL in the upper row, reverse KL in the lower."""
    x = torch.linspace(-6, 6, 481, dtype=torch.float64)
    figure = Figure(figsize=(max(5.0, 1.85 * len(steps)), 4.2), layout="constrained")
    axes = figure.subplots(2, len(steps), sharex=True, sharey=True, squeeze=False)
    tallest = 0.8
    for row, fit, color, name in (
        (axes[0], forward, FORWARD, "forward KL"),
        (axes[1], reverse, REVERSE, "reverse KL"),
    ):
        log_weight = torch.tensor(fit.weight, dtype=torch.float64).log()
        for ax, step in zip(row, steps, strict=True):
            mu, sigma = fit.mu[step].double(), fit.sigma[step].double()
            student = log_density(x, mu, sigma.log(), log_weight)[0].exp()
            tallest = max(tallest, student.max().item())
            ax.fill_between(x, fit.target.log_density(x).exp(), color="#D0D0D0")
            ax.plot(x, student, color=color, ls="-" if color == FORWARD else "--")
            ax.set_title(f"step {step}: {fit.kl[step, 0]:.3f} nats", fontsize=9)
        row[0].set(ylabel=name, xlim=(-6, 6), xticks=(-6, -3, 0, 3, 6))
    axes[0, 0].set(ylim=(0, 1.05 * tallest))
    return figure


def fit_at_step(forward: Trajectory, reverse: Trajectory, step: int = 0) -> Figure:
    """``fit_snapshots`` at one step, for a slider."""
    return fit_snapshots(forward, reverse, [step])


@house_style()
def divergence_curves(fits: Mapping[str, Trajectory], threshold: float = 0.01) -> Figure:
    """Divergence against step for each named fit, and the threshold of arrival."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    ax = figure.subplots()
    for name, fit in fits.items():
        ax.plot(fit.step, fit.kl[:, 0].clamp(min=1e-5), label=name)
    ax.axhline(threshold, color="#5A5A5A", lw=1, ls=":")
    ax.set(xlabel="step", ylabel="divergence, nats", yscale="log", ylim=(1e-4, None))
    ax.legend(loc="upper right")
    return figure


@house_style()
def twin_landscapes(forward: Mapping[str, Trajectory], reverse: Mapping[str, Trajectory]) -> Figure:
    """Both KLs over all students of two equal Gaussians at ±d, with the paths of given fits.

    A student that starts symmetric (means ∓d, one sigma) stays so. Hence the plane holds whole
    fits.
    """
    d = torch.linspace(0, 4, 81, dtype=torch.float64)
    log_sigma = torch.linspace(math.log(0.2), math.log(6), 81, dtype=torch.float64)
    places = torch.cartesian_prod(d, log_sigma)  # [S, 2]
    figure = Figure(figsize=(7.4, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, name, title, fits, color in (
        (axes[0], "forward_kl", FORWARD_NAME, forward, FORWARD),
        (axes[1], "reverse_kl", REVERSE_NAME, reverse, REVERSE),
    ):
        objective = Objective(next(iter(fits.values())).target, (0.5, 0.5), name)
        value = objective(places[:, :1] * torch.tensor([-1.0, 1.0]), places[:, 1:].expand(-1, 2))
        shades = ax.contourf(
            d,
            log_sigma.exp(),
            value.view(len(d), len(log_sigma)).T,
            levels=np.geomspace(0.01, 40.96, 25),
            norm="log",
            cmap="Greys",
            extend="both",
        )
        for style, (label, fit) in zip(("-", "--", ":"), fits.items(), strict=False):
            # sigma is kept as it was before the step, mu as it was after it.
            half_distance = (fit.mu[:-1, 0, 1] - fit.mu[:-1, 0, 0]).abs() / 2
            ax.plot(half_distance, fit.sigma[1:, 0, 0], color=color, ls=style, lw=1.6, label=label)
            ax.plot(half_distance[0], fit.sigma[1, 0, 0], "o", color=color)
        ax.set(title=title, xlabel="half distance d of the means", yscale="log", ylim=(0.2, 6))
        ax.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
        ax.minorticks_off()
        ax.grid(visible=False)
        ax.legend(loc="upper right")
    axes[0].set(ylabel=r"$\sigma$")
    bar = figure.colorbar(shades, ax=axes, label="nats", ticks=[0.01, 0.1, 1, 10])
    bar.ax.set_yticklabels(["0.01", "0.1", "1", "10"])
    return figure
