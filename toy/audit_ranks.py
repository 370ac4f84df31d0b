"""What Figure 4 truly shows: the rank race over learning rates, numerics, sharpness and seeds.

The post concludes from one run of each rank that forward KL "consistently outperforms" reverse KL.
Here the same race is run for

- teachers of rank 2 to 64, as sharp as the post's (logits of variance 64·r) and with logits of
  variance 1,
- learning rates 1e-3, 1e-2 and 1e-1 (the post's),
- exact gradients and those of the post's formula with 1e-10 inside the logarithm,
- forward KL, reverse KL, JSD(0.5), AKL(0.5) and both skews of 0.1,
- 8 seeds, each with its own teacher, start and stream of x, which all its students share.

We ask who is ahead after 100, 1,000 and 10,000 steps, in three distances. The difference between
two divergences is paired by seed, with a 95% t-interval of its mean over seeds. If the interval
contains 0, the two are *not separated*. If both have less than 1e-4 of their first distance left,
the rest is rounding, and both have *arrived*. Of many cells some separate by chance. So read the
pattern, not the single cell.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from kd_lab.evaluation.intervals import t_interval
from toy.rank_figures import draw_epsilon, draw_leaders, draw_verdicts
from toy.rank_race import race, teacher_weights

DISTANCES = ("probability_distance", "weight_distance", "centred_weight_distance")
EXACT = (
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "adaptive_kl",
    "skew_forward_kl",
    "skew_reverse_kl",
)
WITH_EPSILON = ("forward_kl_epsilon", "reverse_kl_epsilon")
DIVERGENCES = EXACT + WITH_EPSILON
ARRIVED = 1e-4  # of the distance at the start

RESULTS = "rank_audit.json"
PICTURES = {
    "rank_audit.png": draw_verdicts,
    "rank_epsilon.png": draw_epsilon,
    "rank_race_others.png": draw_leaders,
}


@dataclass(frozen=True)
class Settings:
    """The settings of the whole sweep; ``steps`` are those at which distances are compared."""

    ranks: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    learning_rates: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    sharpness: tuple[str, ...] = ("post", "unit")
    seeds: int = 8
    steps: tuple[int, ...] = (100, 1_000, 10_000)
    log_every: int = 100


FULL = Settings()
QUICK = Settings(ranks=(2, 64), seeds=3, steps=(5, 15, 45), log_every=5)


def units(settings: Settings) -> dict[str, partial]:
    """The sweep as independent pieces, by name: one teacher of one seed each."""
    return {
        _unit_name(rank, sharpness, seed): partial(run_unit, settings, rank, sharpness, seed)
        for seed in range(settings.seeds)
        for rank in settings.ranks
        for sharpness in settings.sharpness
    }


def run_unit(settings: Settings, rank: int, sharpness: str, seed: int) -> dict[str, Any]:
    """All students of one teacher as one batch: 3 learning rates x 8 gradients in the full sweep.

    Returns:
        ``{"step": [N], "curves": [distance][N][learning rate][divergence]}``
    """
    log = race(
        teacher_weights([rank], seed=seed, sharpness=sharpness),
        DIVERGENCES,
        settings.learning_rates,
        max(settings.steps),
        seed=seed,
        log_every=settings.log_every,
    )
    curves = torch.stack([getattr(log, distance)[..., 0] for distance in DISTANCES])
    return {"step": log.step, "curves": curves.tolist()}


def summarise(settings: Settings, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The kept summary of the units' results: values by seed, differences and verdicts.

    Arrays are nested lists over distance, step, sharpness, rank and learning rate, in this order.
    ``values`` adds divergence and seed as last axes, ``leaders.level`` divergence.
    """
    values = _values(settings, results, settings.steps)
    start = _values(settings, results, (0,))[..., 0, :].mean(-1)  # the same for all divergences
    arrived = np.broadcast_to(ARRIVED * start, values.shape[:-2])
    leader, level = _leaders(values[..., : len(EXACT), :], arrived)
    return {
        "settings": asdict(settings),
        "axes": {
            "distance": DISTANCES,
            "step": settings.steps,
            "sharpness": settings.sharpness,
            "rank": settings.ranks,
            "learning_rate": settings.learning_rates,
            "divergence": DIVERGENCES,
            "seed": list(range(settings.seeds)),
        },
        "values": _six_digits(values),
        "forward_against_reverse": {
            "exact": _compare(_of(values, "forward_kl"), _of(values, "reverse_kl"), arrived),
            "epsilon": _compare(
                _of(values, "forward_kl_epsilon"), _of(values, "reverse_kl_epsilon"), arrived
            ),
        },
        "leaders": {"leader": leader.tolist(), "level": level.tolist()},
        "sharpest_curves": _sharpest_curves(settings, results),
    }


def findings(summary: dict[str, Any]) -> list[str]:
    """The sweep's findings in a few lines; all numbers come out of ``summary``."""
    axes, seeds = summary["axes"], len(summary["axes"]["seed"])
    verdicts = {
        numerics: np.array(comparison["verdict"])
        for numerics, comparison in summary["forward_against_reverse"].items()
    }  # [distance, step, sharpness, rank, learning rate] each
    lines = [
        f"Ranks {', '.join(map(str, axes['rank']))}, {seeds} seeds. Cells (distance x rank x "
        "learning rate) where forward KL / reverse KL is ahead, 95% intervals, exact gradients:"
    ]
    for sharpness, name in enumerate(axes["sharpness"]):
        cells = verdicts["exact"][:, :, sharpness]
        counts = [
            f"{(at_step == 'forward').sum()} / {(at_step == 'reverse').sum()} of {at_step.size} "
            f"after {step:,} steps"
            for step, at_step in zip(axes["step"], cells.swapaxes(0, 1), strict=True)
        ]
        lines.append(f"  {name} sharpness: {', '.join(counts)}.")

    weight, last, sharp = DISTANCES.index("weight_distance"), -1, 0
    steps = f"{axes['step'][last]:,} steps"
    for rate, lr in enumerate(axes["learning_rate"]):
        ahead = verdicts["exact"][weight, last, sharp, :, rate]
        forward, reverse = (
            ", ".join(str(r) for r, v in zip(axes["rank"], ahead, strict=True) if v == who)
            for who in ("forward", "reverse")
        )
        lines.append(
            f"Weight distance, post sharpness, {steps}, learning rate {lr:g}: forward ahead at "
            f"rank {forward or 'none'}, reverse at {reverse or 'none'}."
        )
    for rank, numerics in itertools.product((0, -1), ("exact", "epsilon")):
        cell = _one_cell(summary, numerics, (weight, last, sharp, rank, -1))
        lines.append(
            f"Rank {axes['rank'][rank]}, post sharpness, {steps}, learning rate "
            f"{axes['learning_rate'][-1]:g}, {numerics}: {cell}."
        )
    leaders = np.array(summary["leaders"]["leader"])[:, last]
    ranking = Counter(leaders.flatten().tolist()).most_common()
    lines.append(
        f"Nearest of six after {steps}, of {leaders.size} cells: "
        f"{', '.join(f'{name} {count}' for name, count in ranking)}."
    )
    return lines


def _one_cell(summary: dict[str, Any], numerics: str, where: tuple[int, ...]) -> str:
    suffix = "_epsilon" if numerics == "epsilon" else ""
    mean = np.array(summary["values"])[where].mean(-1)  # [divergence]
    forward, reverse = (
        mean[DIVERGENCES.index(name + suffix)] for name in ("forward_kl", "reverse_kl")
    )
    comparison = summary["forward_against_reverse"][numerics]
    difference, low, high, verdict = (
        np.array(comparison[key])[where] for key in ("mean_difference", "low", "high", "verdict")
    )
    return (
        f"weight distance {forward:.1f} forward, {reverse:.1f} reverse, difference "
        f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]: {verdict}"
    )


def _values(
    settings: Settings, results: dict[str, dict[str, Any]], steps: Sequence[int]
) -> np.ndarray:
    """[distance, step, sharpness, rank, learning rate, divergence, seed]"""

    def at_steps(rank: int, sharpness: str, seed: int) -> np.ndarray:
        result = results[_unit_name(rank, sharpness, seed)]
        rows = [result["step"].index(step) for step in steps]
        return np.array(result["curves"])[:, rows]  # [distance, step, learning rate, divergence]

    values = np.array(
        [
            [
                [at_steps(rank, sharpness, seed) for seed in range(settings.seeds)]
                for rank in settings.ranks
            ]
            for sharpness in settings.sharpness
        ]
    )  # [sharpness, rank, seed, distance, step, learning rate, divergence]
    return values.transpose(3, 4, 0, 1, 5, 6, 2)


def _of(values: np.ndarray, divergence: str) -> np.ndarray:
    return values[..., DIVERGENCES.index(divergence), :]


def _compare(forward: np.ndarray, reverse: np.ndarray, arrived: np.ndarray) -> dict[str, Any]:
    """The difference of two distances, paired over the last axis, and the smaller one's name."""
    low, high = t_interval(forward - reverse)
    verdict = np.where(high < 0, "forward", np.where(low > 0, "reverse", "not separated"))
    verdict[(forward.mean(-1) < arrived) & (reverse.mean(-1) < arrived)] = "arrived"
    return {
        "mean_difference": _six_digits((forward - reverse).mean(-1)),
        "low": _six_digits(low),
        "high": _six_digits(high),
        "verdict": verdict.tolist(),
    }


def _leaders(values: np.ndarray, arrived: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The name of the smallest mean [...] of values [..., D, seed], and a mask of its equals.

    The mask [..., D] holds the leader, those not separated from it, and those that have arrived as
    it has. Where all have arrived, the leader is "arrived".
    """
    mean = values.mean(-1)  # [..., D]
    leader = mean.argmin(-1)  # [...]
    low, _ = t_interval(values - np.take_along_axis(values, leader[..., None, None], -2))
    has_arrived = mean < arrived[..., None]
    name = np.where(has_arrived.all(-1), "arrived", np.array(EXACT)[leader])
    return name, (low <= 0) | has_arrived


def _sharpest_curves(settings: Settings, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Weight distance over all steps, at the highest rank and learning rate of the sharp teachers.

    For forward and reverse KL: by seed [seed][N], and the interval of its mean [N].
    """
    rank, sharpness = max(settings.ranks), settings.sharpness[0]
    rate = settings.learning_rates.index(max(settings.learning_rates))
    by_seed = [results[_unit_name(rank, sharpness, seed)] for seed in range(settings.seeds)]
    weight_distance = np.array(
        [result["curves"][DISTANCES.index("weight_distance")] for result in by_seed]
    )[:, :, rate]  # [seed, N, divergence]
    low, high = t_interval(np.moveaxis(weight_distance, 0, -1))  # [N, divergence]
    return {
        "rank": rank,
        "learning_rate": settings.learning_rates[rate],
        "step": by_seed[0]["step"],
        "weight_distance": {
            name: {
                "by_seed": _six_digits(weight_distance[..., column]),
                "low": _six_digits(low[:, column]),
                "high": _six_digits(high[:, column]),
            }
            for column, name in enumerate(DIVERGENCES)
            if name in ("forward_kl", "reverse_kl", *WITH_EPSILON)
        },
    }


def _unit_name(rank: int, sharpness: str, seed: int) -> str:
    return f"rank{rank}-{sharpness}-seed{seed}"


def _six_digits(array: np.ndarray) -> list:
    return np.vectorize(lambda value: float(f"{value:.6g}"))(array).tolist()
