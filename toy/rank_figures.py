"""The pictures of the rank race: one race in the post's form, and the audit of many."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle

from kd_lab.house_style import Figure, house_style, line_style
from kd_lab.named_divergence import NamedDivergence
from toy.rank_race import RaceLog

LABELS = {
    "forward_kl": "Forward KL",
    "reverse_kl": "Reverse KL",
    "jensen_shannon": "JSD(0.5)",
    "adaptive_kl": "AKL(0.5)",
    "skew_forward_kl": "Skew forward KL(0.1)",
    "skew_reverse_kl": "Skew reverse KL(0.1)",
    "total_variation": "TVD",
    "forward_kl_epsilon": "Forward KL + 1e-10",
    "reverse_kl_epsilon": "Reverse KL + 1e-10",
}
INITIALS = {
    "forward_kl": "F",
    "reverse_kl": "R",
    "jensen_shannon": "J",
    "adaptive_kl": "A",
    "skew_forward_kl": "sF",
    "skew_reverse_kl": "sR",
}
DISTANCE_NAMES = {
    "probability_distance": "‖p − q‖",
    "weight_distance": "‖ΔW‖",
    "centred_weight_distance": "‖ΔW‖, class-centred",
}
LEVEL = "#E4E4E4"  # neither is ahead


def style_of(divergence: str) -> dict[str, Any]:
    """A divergence's own colour and line style, the same in every picture here."""
    return line_style(NamedDivergence(divergence.removesuffix("_epsilon")).line)


def _label(divergence: str) -> str:
    return LABELS.get(divergence, divergence.replace("_", " "))


def draw_race(log: RaceLog, teacher: int, rank: int, path: Path) -> None:
    """One picture in the post's form, 640x480: weight distance left, probability distance right."""
    with house_style():
        figure = Figure(figsize=(6.4, 4.8))
        weights = figure.subplots()
        probabilities = weights.twinx()
        for divergence in log.divergences:
            style = style_of(divergence)
            weight_distance = log.curve("weight_distance", divergence, teacher)
            probability_distance = log.curve("probability_distance", divergence, teacher)
            weights.plot(
                log.step, weight_distance, linewidth=2.8, label=_label(divergence), **style
            )
            probabilities.plot(log.step, probability_distance, linewidth=1, **style)
        weights.set(
            title=f"Rank {rank} 64x64: weight and probability distance",
            xlabel="Iterations",
            ylabel="Weight distance ‖ΔW‖ (thick)",
        )
        probabilities.set_ylabel("Probability distance ‖p − q‖ (thin)")
        probabilities.grid(False)
        probabilities.spines["right"].set_visible(True)
        figure.legend(loc="lower center", ncols=2, handlelength=3)
        rows = math.ceil(len(log.divergences) / 2)
        figure.tight_layout(rect=(0, 0.02 + 0.05 * rows, 1, 1))
        figure.savefig(path, dpi=100, pil_kwargs={"quality": 92})


def draw_verdicts(summary: Mapping[str, Any], path: Path) -> None:
    """Forward against reverse KL: the leader of each cell, and its lead in per cent."""
    values, divergences = np.array(summary["values"]), list(summary["axes"]["divergence"])
    mean = values.mean(-1)  # [distance, step, sharpness, rank, rate, divergence]
    blocks = [(0, "exact", "sharp"), (0, "epsilon", "sharp + 1e-10"), (1, "exact", "unit")]
    colours = {
        "forward": style_of("forward_kl")["color"],
        "reverse": style_of("reverse_kl")["color"],
        "not separated": LEVEL,
        "arrived": LEVEL,
    }

    def cell(block: int, at: tuple[int, int], rank: int, rate: int) -> tuple[Any, str, str]:
        sharpness, numerics, _ = blocks[block]
        where = (*at, sharpness, rank, rate)
        suffix = "_epsilon" if numerics == "epsilon" else ""
        forward, reverse = (
            mean[where][divergences.index(name + suffix)] for name in ("forward_kl", "reverse_kl")
        )
        verdict = _at(summary["forward_against_reverse"][numerics]["verdict"], where)
        lead = 100 * abs(forward - reverse) / max(forward, reverse)
        number = f"{lead:.0f}" if lead >= 9.95 else f"{lead:.1f}"
        text = {"not separated": "", "arrived": "="}.get(verdict, f"{verdict[0].upper()} {number}")
        return colours[verdict], text, "white" if verdict in ("forward", "reverse") else "black"

    legend = [
        Patch(color=colours["forward"], label="F: forward KL is nearer to the teacher"),
        Patch(color=colours["reverse"], label="R: reverse KL is nearer"),
        Patch(color=LEVEL, label="not separated (=: both arrived)"),
    ]
    title = "Forward against reverse KL: who is nearer to the teacher, and by how many per cent"
    _draw_maps(summary, [label for *_, label in blocks], cell, legend, title, path)


def draw_leaders(summary: Mapping[str, Any], path: Path) -> None:
    """All six divergences: the nearest to the teacher in each cell; pale if it is not alone."""
    leader, level = summary["leaders"]["leader"], summary["leaders"]["level"]

    def cell(block: int, at: tuple[int, int], rank: int, rate: int) -> tuple[Any, str, str]:
        where = (*at, block, rank, rate)
        name, level_with_it = _at(leader, where), sum(_at(level, where)) - 1
        if name == "arrived":
            return LEVEL, "=", "black"
        colour = style_of(name)["color"]
        if not level_with_it:
            return colour, INITIALS[name], "white"
        pale = tuple(0.35 * channel + 0.65 for channel in to_rgb(colour))
        return pale, f"{INITIALS[name]} +{level_with_it}", "black"

    legend = [
        Patch(color=style_of(name)["color"], label=f"{initial}: {_label(name)}")
        for name, initial in INITIALS.items()
    ]
    title = "Nearest to the teacher of six (pale, +n: not separated from n others; =: all arrived)"
    _draw_maps(summary, ["sharp", "unit"], cell, legend, title, path)


def draw_epsilon(summary: Mapping[str, Any], path: Path) -> None:
    """The weight distance at the highest rank, without and with the epsilon: mean and interval."""
    curves = summary["sharpest_curves"]
    with house_style():
        figure = Figure(figsize=(10, 4.6))
        panels = figure.subplots(1, 2, sharey=True)
        for ax, suffix, title in zip(
            panels, ("", "_epsilon"), ("exact", "1e-10 inside the logarithm"), strict=True
        ):
            for name in ("forward_kl", "reverse_kl"):
                curve, style = curves["weight_distance"][name + suffix], style_of(name)
                mean = np.mean(curve["by_seed"], axis=0)  # [N]
                ax.plot(curves["step"], mean, label=_label(name), **style)
                ax.fill_between(
                    curves["step"], curve["low"], curve["high"], color=style["color"], alpha=0.25
                )
            ax.set(title=title, xlabel="Iterations", ylim=(0, None))
        panels[0].set_ylabel("Weight distance ‖ΔW‖")
        figure.suptitle(
            f"Rank {curves['rank']}, learning rate {curves['learning_rate']:g}: "
            f"mean and 95% interval over {len(curve['by_seed'])} seeds"
        )
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=2, handlelength=3)
        figure.tight_layout(rect=(0, 0.07, 1, 1))
        figure.savefig(path, dpi=100)


def _draw_maps(
    summary: Mapping[str, Any],
    blocks: Sequence[str],
    cell: Callable[[int, tuple[int, int], int, int], tuple[Any, str, str]],
    legend: Sequence[Patch],
    title: str,
    path: Path,
) -> None:
    """A panel for each distance and step, with a column for each rank and a row for each rate.

    ``cell(block, (distance, step), rank, rate)`` gives the face, the text and its colour.
    """
    axes = summary["axes"]
    distances, steps, ranks = axes["distance"], axes["step"], axes["rank"]
    rates = axes["learning_rate"]
    rows = [(block, rate) for block in range(len(blocks)) for rate in range(len(rates))]
    with house_style():
        figure = Figure(figsize=(13, 1.6 + 0.36 * len(distances) * len(rows)))
        panels = figure.subplots(
            len(distances), len(steps), sharex=True, sharey=True, squeeze=False
        )
        for at, ax in np.ndenumerate(panels):
            for row, (block, rate) in enumerate(rows):
                for column in range(len(ranks)):
                    face, text, ink = cell(block, at, column, rate)
                    ax.add_patch(Rectangle((column, row), 1, 1, facecolor=face, edgecolor="white"))
                    centre = (column + 0.5, row + 0.5)
                    ax.text(*centre, text, color=ink, ha="center", va="center", size=9)
            for block in range(1, len(blocks)):
                ax.axhline(block * len(rates), color="black", lw=1.2, ls="-")
            ax.set_title(f"{DISTANCE_NAMES[distances[at[0]]]} after {steps[at[1]]:,} steps")
            ax.tick_params(length=0, labelsize=9)
            ax.grid(False)
        panels[0, 0].set(
            xlim=(0, len(ranks)),
            ylim=(len(rows), 0),
            xticks=np.arange(len(ranks)) + 0.5,
            yticks=np.arange(len(rows)) + 0.5,
            xticklabels=ranks,
            yticklabels=[f"{blocks[block]}, {rates[rate]:g}" for block, rate in rows],
        )
        for ax in panels[-1]:
            ax.set_xlabel("rank of the teacher")
        for ax in panels[:, 0]:
            ax.set_ylabel("teacher, learning rate")
        figure.suptitle(title, size=14)
        figure.legend(handles=legend, loc="lower center", ncols=3)
        figure.tight_layout(rect=(0, 0.5 / figure.get_figheight(), 1, 0.99))
        figure.savefig(path, dpi=100)


def _at(nested: Any, where: tuple[int, ...]) -> Any:
    for index in where:
        nested = nested[index]
    return nested
