"""The race of Figure 2 from many starts: how long each divergence needs, and when it never arrives.

Two Gaussians can be the post's target exactly. The post starts them at μ = ∓1, σ = 5 and reads off
about 100 steps for forward KL against 350 for reverse KL. Here each divergence starts from 1,024
places: μ₁ and μ₂ uniform in [-6, 6], σ = 5. It takes up to 2,000 steps of Adam at learning rate
0.1, as in the post. *Arrived* has one meaning for all divergences: forward KL below 0.01 nats. The
results also keep the step at which the divergence itself first lay below 0.01.

Forward and reverse KL run twice: summed exactly, and with the post's 1e-10 inside the logarithm,
under names that end in ``_epsilon``. Nothing else differs between the two: same grid, float64.

The gradient of total variation jumps wherever p and q cross a point of the grid. On a finer grid
its single starts move by some steps, its quantiles by a few.

Intervals are over starts, at 95%: of shares the exact binomial ones, which do not shrink to a point
where no start failed, and of quantiles percentile bootstraps.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from scipy.stats import binomtest, bootstrap
from torch import Tensor

from kd_lab.house_style import Figure, house_style
from toy.mixture import Grid
from toy.mixture_fit import POST_TARGET, Descent, Objective, post_objective

# Those of the audit: a later divergence of the registry would change its results.
DIVERGENCES = (
    "forward_kl", "reverse_kl", "jensen_shannon", "adaptive_kl", "skew_forward_kl",
    "skew_reverse_kl", "total_variation",
)  # fmt: skip
WITH_EPSILON = {"forward_kl_epsilon": "forward_kl", "reverse_kl_epsilon": "reverse_kl"}
RACERS = (*DIVERGENCES, *WITH_EPSILON)
COMPARED = ("forward_kl", "forward_kl_epsilon", "reverse_kl", "reverse_kl_epsilon")
# The post's start, a wider one, and one on the far side of a mode. They are not of the sample.
NAMED_STARTS = {"-1 1": (-1.0, 1.0), "-2 2": (-2.0, 2.0), "4 5": (4.0, 5.0)}
THRESHOLD = 0.01


@dataclass(frozen=True)
class Settings:
    starts: int = 1024
    steps: int = 2000
    seed: int = 0
    mu_range: tuple[float, float] = (-6.0, 6.0)
    sigma: float = 5.0
    optimizer: str = "Adam"
    lr: float = 0.1


FULL = Settings()
QUICK = Settings(starts=64, steps=400)


def units(settings: Settings) -> dict[str, partial]:
    """One race for each divergence, by name; they can be run in any order."""
    return {racer: partial(race, settings, racer) for racer in RACERS}


def random_starts(settings: Settings) -> Tensor:
    """The sampled means, [S, 2]."""
    low, high = settings.mu_range
    draw = torch.Generator().manual_seed(settings.seed)
    return low + (high - low) * torch.rand(settings.starts, 2, generator=draw, dtype=torch.float64)


def race(settings: Settings, racer: str) -> dict[str, Any]:
    """Run all starts under one divergence as one batch; a start that has arrived leaves it.

    Returns:
        lists over the named starts and then the random ones:
        - ``steps``: until forward KL lay below 0.01; None if it never did.
        - ``own_steps``: until the divergence itself lay below 0.01; None if it never did.
        - ``mu``, ``sigma``, ``value`` (of the divergence itself): each start's last state.
    """
    divergence = WITH_EPSILON.get(racer, racer)
    mu = torch.cat([torch.tensor(list(NAMED_STARTS.values())).double(), random_starts(settings)])
    descent = Descent(POST_TARGET, mu, settings.sigma, optimizer=settings.optimizer, lr=settings.lr)
    steps, own_steps = torch.full((2, len(mu)), -1)
    last_mu, last_sigma, last_value = mu.clone(), torch.zeros_like(mu), mu[:, 0].clone()
    running = torch.arange(len(mu))
    reach = 0
    for step in range(settings.steps + 1):
        needed = _reach(descent)
        if not reach / 2 < needed < reach:  # a new grid, with half as much again to grow into
            reach = math.ceil(1.5 * needed)
            grid = Grid(-reach, reach, 20 * reach + 1)
            yardstick = Objective(POST_TARGET, descent.weight, "forward_kl", grid=grid)
            descent.objective = (
                post_objective(POST_TARGET, descent.weight, divergence, yardstick.x)
                if racer in WITH_EPSILON
                else Objective(POST_TARGET, descent.weight, divergence, grid=grid)
            )
        last_mu[running] = descent.mu.detach()
        with torch.no_grad():
            forward = yardstick(descent.mu, descent.log_sigma)
        _, last_sigma[running], value = descent.step()
        last_value[running] = value
        steps[running[(forward < THRESHOLD) & (steps[running] < 0)]] = step
        own_steps[running[(value < THRESHOLD) & (own_steps[running] < 0)]] = step
        unfinished = (steps[running] < 0) | (own_steps[running] < 0)
        if not unfinished.all():
            running = running[unfinished]
            descent.keep(unfinished)
        if len(running) == 0:
            break
    return {
        "steps": _none_if_never(steps),
        "own_steps": _none_if_never(own_steps),
        "mu": last_mu.tolist(),
        "sigma": last_sigma.tolist(),
        "value": last_value.tolist(),
    }


def _reach(descent: Descent) -> float:
    """How far from 0 a grid must go to hold every student and the target."""
    mu, sigma = descent.mu.detach(), descent.log_sigma.detach().exp()
    return max(6.0, float((mu.abs() + 6 * sigma).max()))


def _none_if_never(steps: Tensor) -> list[int | None]:
    return [step if step >= 0 else None for step in steps.tolist()]


def summarise(settings: Settings, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Steps of all starts, their quantiles and the share that never arrives, with intervals.

    ``against_forward_kl`` pairs the starts: the share from which a divergence arrives in fewer
    steps than forward KL, and the share from which it takes more.
    """
    named = len(NAMED_STARTS)
    never = settings.steps + 1  # sorts after every step
    steps = {
        racer: np.array([never if step is None else step for step in result["steps"][named:]])
        for racer, result in results.items()
    }  # [S] each
    races = {}
    for racer, result in results.items():
        own = np.array([never if step is None else step for step in result["own_steps"][named:]])
        stuck = [
            {key: result[key][start] for key in ("mu", "sigma", "value")}
            for start, step in enumerate(result["steps"])
            if start >= named and step is None
        ]
        races[racer] = {
            "never": _share(steps[racer] == never),
            "never_by_own_value": _share(own == never),
            "quantiles": {
                f"{100 * level:g}%": _quantile(steps[racer], level, never)
                for level in (0.25, 0.5, 0.75, 0.9)
            },
            "against_forward_kl": {
                "fewer_steps": _share(steps[racer] < steps["forward_kl"]),
                "more_steps": _share(steps[racer] > steps["forward_kl"]),
            },
            "stuck": {
                "on_one_mode": sum(_on_one_mode(end["mu"]) for end in stuck),
                "elsewhere": sum(not _on_one_mode(end["mu"]) for end in stuck),
                "median_value": float(np.median([end["value"] for end in stuck]))
                if stuck
                else None,
            },
            "named_starts": {
                name: {key: result[key][start] for key in result}
                for start, name in enumerate(NAMED_STARTS)
            },
            "steps": result["steps"][named:],
            "own_steps": result["own_steps"][named:],
        }
    return {
        "settings": {**asdict(settings), "threshold": THRESHOLD, "sampling": "uniform"},
        "starts": random_starts(settings).tolist(),
        "races": races,
    }


def _on_one_mode(mu: list[float]) -> bool:
    return any(all(abs(value - mode) < 1 for value in mu) for mode in POST_TARGET.mu)


def _share(happened: np.ndarray) -> dict[str, Any]:
    exact = binomtest(int(happened.sum()), len(happened)).proportion_ci(method="exact")
    return {
        "share": float(happened.mean()),
        "interval": [exact.low, exact.high],
    }


def _quantile(steps: np.ndarray, level: float, never: int) -> dict[str, Any]:
    """A quantile of steps, None where it lies among the starts that never arrive."""
    quantile = partial(np.quantile, q=level, method="inverted_cdf")
    values = [float(quantile(steps)), *_interval(steps, quantile)]
    value, low, high = (None if value >= never else value for value in values)
    return {"steps": value, "interval": [low, high]}


def _interval(samples: np.ndarray, statistic: Callable[..., Any]) -> list[float]:
    result = bootstrap(
        (samples.astype(float),),
        statistic,
        method="percentile",
        batch=500,
        rng=np.random.default_rng(0),
    )
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]


def findings(summary: dict[str, Any]) -> list[str]:
    """The race's findings in a few lines; all numbers come out of ``summary``."""
    races, settings = summary["races"], summary["settings"]
    lines = [
        f"Two Gaussians, {settings['starts']:,} random starts, steps to a forward KL of "
        f"{settings['threshold']:g} nats (median), and the share not there after "
        f"{settings['steps']:,}, with 95% intervals:"
    ]
    for racer, result in races.items():
        median, never, stuck = result["quantiles"]["50%"], result["never"], result["stuck"]
        ahead = result["against_forward_kl"]["fewer_steps"]
        line = f"  {_label(racer)}: {_listed(median['steps'], *median['interval'])}, never "
        line += _percentages(never)
        if never["share"]:
            line += f" (stuck at {stuck['median_value']:.4f})"
        if racer != "forward_kl":
            line += f"; ahead of forward KL from {_percentages(ahead)}"
        lines.append(line)
    for name in NAMED_STARTS:
        steps = {racer: result["named_starts"][name]["steps"] for racer, result in races.items()}
        lines.append(
            f"  From ({name.replace(' ', ', ')}): "
            + ", ".join(f"{_label(racer)} {steps[racer] or 'never'}" for racer in COMPARED)
        )
    return lines


def _listed(value: float | None, low: float | None, high: float | None) -> str:
    value_, low_, high_ = ("never" if v is None else f"{v:g}" for v in (value, low, high))
    return f"{value_} [{low_}, {high_}]"


def _percentages(share: dict[str, Any]) -> str:
    low, high = share["interval"]
    return f"{share['share']:.1%} [{low:.1%}, {high:.1%}]"


def _label(racer: str) -> str:
    words = racer.removesuffix("_epsilon").replace("_", " ").replace("kl", "KL")
    return words + (", 1e-10 in log" if racer in WITH_EPSILON else "")


@house_style()
def draw_race(summary: dict[str, Any], path: Path) -> None:
    """The share of arrived starts over steps: all divergences, and the effect of 1e-10."""
    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    (everyone, epsilon) = figure.subplots(1, 2, sharey=True)
    for racer in DIVERGENCES:
        _draw_arrivals(everyone, summary, racer)
    looks = (("#0072B2", "-"), ("#56B4E9", "-."), ("#D55E00", "--"), ("#E69F00", ":"))
    for racer, (color, style) in zip(COMPARED, looks, strict=True):
        line = _draw_arrivals(epsilon, summary, racer, color=color, linestyle=style)
        post_steps = summary["races"][racer]["named_starts"]["-1 1"]["steps"]
        if post_steps is not None:
            height = np.interp(post_steps, *line)
            epsilon.plot(post_steps, height, marker="*", color=color, markersize=15, zorder=4)
            aside = (5, -14) if racer == "reverse_kl" else (-26, 5)
            epsilon.annotate(
                f"{post_steps}", (post_steps, height), aside, textcoords="offset points"
            )
    everyone.set(title="Exact sums", ylabel="share of starts that have arrived")
    epsilon.set(title="With the post's 1e-10 (★ its start)")
    for axes in (everyone, epsilon):
        axes.set(
            xlabel="steps", xscale="log", xlim=(20, summary["settings"]["steps"]), ylim=(0, 1.02)
        )
        ticks = (20, 50, 100, 200, 500, 2000)
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.legend(loc="lower right", fontsize=8.5)
    figure.savefig(path, dpi=160)


def _draw_arrivals(
    axes: Axes, summary: dict[str, Any], racer: str, **line: Any
) -> tuple[np.ndarray, np.ndarray]:
    steps = summary["races"][racer]["steps"]
    arrived = np.sort([step for step in steps if step is not None])
    x = np.append(arrived, summary["settings"]["steps"])
    y = np.append(np.arange(1, len(arrived) + 1), len(arrived)) / len(steps)
    axes.step(x, y, where="post", label=_label(racer), **line)
    return x, y


@house_style()
def draw_map(summary: dict[str, Any], path: Path) -> None:
    """Steps to arrival over (μ₁, μ₂), one panel for each divergence; crosses never arrive."""
    starts = np.array(summary["starts"])
    shown = (*DIVERGENCES, "reverse_kl_epsilon")
    figure = Figure(figsize=(8.6, 5.2), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True, sharey=True)
    scale = LogNorm(30, 400)
    for axes, racer in zip(panels.flat, shown, strict=True):
        steps = summary["races"][racer]["steps"]
        arrived = np.array([step is not None for step in steps])
        dots = axes.scatter(
            *starts[arrived].T,
            c=[step for step in steps if step is not None],
            norm=scale,
            cmap="viridis_r",
            s=6,
            linewidths=0,
        )
        axes.scatter(*starts[~arrived].T, color="#D55E00", marker="x", s=9, linewidths=0.8)
        axes.plot(*NAMED_STARTS["-1 1"], marker="*", color="white", mec="black", markersize=11)
        share = summary["races"][racer]["never"]["share"]
        axes.set_title(f"{_label(racer)}\nnever: {share:.1%}", fontsize=10)
        axes.set(aspect="equal", xticks=(-6, -3, 0, 3, 6), yticks=(-6, -3, 0, 3, 6))
    for axes in panels[-1]:
        axes.set_xlabel("μ₁")
    for axes in panels[:, 0]:
        axes.set_ylabel("μ₂")
    bar = figure.colorbar(dots, ax=panels, extend="both", shrink=0.8, pad=0.01)
    bar.set_ticks([30, 50, 100, 200, 400], labels=["30", "50", "100", "200", "400"])
    bar.minorticks_off()
    bar.set_label("steps to arrival (×: never; ★: the post's start)")
    figure.savefig(path, dpi=160)


RESULTS = "two_gaussians.json"
PICTURES = {"two_gaussians_race.png": draw_race, "two_gaussians_map.png": draw_map}
