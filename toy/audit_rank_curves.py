"""The curves of the rank race, for every setting, at steps that are even on a logarithmic axis.

``toy.audit_ranks`` asks who is ahead after 100, 1,000 and 10,000 steps, over eight seeds. Here the
students of its first four seeds run again and are measured 38 times. The sliders of the site's page
on ranks show these curves. Adaptive KL and JSD stand for the divergences between the two
directions; the skews are left out.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from toy.rank_race import race, teacher_weights

DISTANCES = ("probability_distance", "weight_distance", "centred_weight_distance")
DIVERGENCES = (
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "adaptive_kl",
    "forward_kl_epsilon",
    "reverse_kl_epsilon",
)

RESULTS = "rank_curves.json"
PICTURES: dict[str, Any] = {}  # the page draws them


@dataclass(frozen=True)
class Settings:
    """The settings of all races; the first three are the axes of the page's sliders."""

    ranks: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    learning_rates: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    sharpness: tuple[str, ...] = ("post", "unit")
    seeds: int = 4
    steps: int = 10_000


FULL = Settings()
QUICK = Settings(ranks=(2, 64), seeds=2, steps=100)


def logged_steps(last: int) -> list[int]:
    """1, 2, 3, ... ``last``, ten to a decade as far as whole numbers allow."""
    exponents = np.arange(math.floor(10 * math.log10(last)) + 1) / 10
    return sorted({*(int(step) for step in np.rint(10**exponents)), last})


def units(settings: Settings) -> dict[str, partial]:
    """The races as independent pieces, by name: one teacher of one seed each."""
    return {
        _unit_name(rank, sharpness, seed): partial(run_unit, settings, rank, sharpness, seed)
        for seed in range(settings.seeds)
        for rank in settings.ranks
        for sharpness in settings.sharpness
    }


def run_unit(settings: Settings, rank: int, sharpness: str, seed: int) -> dict[str, Any]:
    """All students of one teacher as one batch.

    Returns:
        ``{"curves": [distance][learning rate][divergence][step]}``
    """
    steps = logged_steps(settings.steps)
    log = race(
        teacher_weights([rank], seed=seed, sharpness=sharpness),
        DIVERGENCES,
        settings.learning_rates,
        settings.steps,
        seed=seed,
        log_every=settings.steps,
        log_also=frozenset(steps),
    )
    rows = [log.step.index(step) for step in steps]
    curves = torch.stack([getattr(log, distance)[rows, ..., 0] for distance in DISTANCES])
    return {"curves": curves.permute(0, 2, 3, 1).tolist()}


def summarise(settings: Settings, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, least and greatest over the seeds, as nested lists over the axes in their order.

    The mean has four significant digits, the range three. A chart shows no more, and the page loads
    faster.
    """
    curves = np.array(
        [
            [
                [results[_unit_name(rank, kind, seed)]["curves"] for seed in range(settings.seeds)]
                for rank in settings.ranks
            ]
            for kind in settings.sharpness
        ]
    )  # [sharpness, rank, seed, distance, learning rate, divergence, step]
    by_seed = curves.transpose(2, 3, 0, 1, 4, 5, 6)
    return {
        "settings": asdict(settings),
        "axes": {
            "distance": DISTANCES,
            "sharpness": settings.sharpness,
            "rank": settings.ranks,
            "learning_rate": settings.learning_rates,
            "divergence": DIVERGENCES,
            "step": logged_steps(settings.steps),
        },
        "mean": _rounded(by_seed.mean(0), 4),
        "least": _rounded(by_seed.min(0), 3),
        "greatest": _rounded(by_seed.max(0), 3),
    }


def findings(summary: Mapping[str, Any]) -> list[str]:
    """One line: what was run. ``toy.audit_ranks`` says who is ahead."""
    axes, seeds = summary["axes"], summary["settings"]["seeds"]
    races = len(axes["sharpness"]) * len(axes["rank"]) * len(axes["learning_rate"])
    return [
        f"Curves of {len(axes['divergence'])} students in {races} settings, {seeds} seeds, at "
        f"{len(axes['step'])} steps up to {axes['step'][-1]:,}."
    ]


def _unit_name(rank: int, sharpness: str, seed: int) -> str:
    return f"rank{rank}-{sharpness}-seed{seed}"


def _rounded(array: np.ndarray, digits: int) -> list:
    def shortest(value: float) -> float | int:
        number = float(f"{value:.{digits}g}")
        return int(number) if number.is_integer() else number  # 211, not 211.0

    return np.vectorize(shortest, otypes=[object])(array).tolist()
