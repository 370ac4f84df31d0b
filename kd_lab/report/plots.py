"""The pictures of a report: differences to SFT, training curves, and coverage against precision.

A row looks the same in every picture. Its colour and line show its divergence. Its marker shows who
wrote the answers: ● the dataset, ▲ the teacher, ■ the student, ◆ both; hollow where a share is SFT.
SFT alone is grey, the teacher a star, and a start a cross.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kd_lab.house_style import Figure, house_style, line_style
from kd_lab.report.comparisons import Comparison
from kd_lab.report.runs import Row
from kd_lab.runs.safe_text import in_plot

FORMATS = ("png", "svg")
PICTURES = ("differences", "training_curves", "coverage_precision")
SPARE_MARKERS = "vP<>pdh8"  # for rows that stand at one point of the map
PLAIN = FuncFormatter(lambda value, _: f"{value:.6g}")  # 0.3 and not 3 × 10⁻¹
LOGGED = {"forward KL, D(p‖q)": "eval_forward_kl", "reverse KL, D(q‖p)": "eval_reverse_kl"}

Pictures = dict[str, bytes]  # file name -> its content


def draw_all(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> dict[str, Pictures]:
    """All pictures for which the runs have data, each as PNG and SVG.

    Returns:
        name of the picture -> its files: "differences", "training_curves", "coverage_precision".
    """
    drawn = (_draw_differences(rows, comparisons), _draw_curves(rows), _draw_modes(rows))
    return {
        name: _files(name, figure)
        for name, figure in zip(PICTURES, drawn, strict=True)
        if figure is not None
    }


def styles(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Colour, line style and marker of each row, by its name."""
    taken: set[tuple[str, str, str]] = set()
    by_name = {}
    for row in rows:
        style, marker, filled = line_style(None), "o", True
        if row.is_teacher:
            style, marker = {"color": "black", "linestyle": "-"}, "*"
        elif row.point:
            look = row.point.look
            style, filled = line_style(look.line), look.filled
            marker = "X" if row.gives else look.marker
        face = style["color"] if filled else "white"
        spare = iter(SPARE_MARKERS)
        while (style["color"], marker, face) in taken and marker != ".":
            marker = next(spare, ".")
        taken.add((style["color"], marker, face))
        by_name[row.name] = {**style, "marker": marker, "markerfacecolor": face}
    return by_name


@house_style()
def _draw_differences(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> Figure | None:
    """A panel for each metric, a line for each row: difference to SFT with its interval."""
    if not comparisons:
        return None
    metrics = list(dict.fromkeys(comparison.metric for comparison in comparisons))
    names = list(dict.fromkeys(comparison.row.name for comparison in comparisons))
    style = styles(rows)
    across = min(2, len(metrics))
    down = math.ceil(len(metrics) / across)
    figure = Figure(figsize=(6.6, down * (0.95 + 0.3 * len(names))), layout="constrained")
    panels = figure.subplots(down, across, sharey=True, squeeze=False)
    for axes, metric in zip(panels.flat, metrics, strict=False):
        axes.axvline(0, color="black", linewidth=1.2)
        for comparison in comparisons:
            if comparison.metric is metric:
                look = style[comparison.row.name]
                row, (mean, low, high, _) = (
                    names.index(comparison.row.name),
                    comparison.difference,
                )
                face = look["color"] if comparison.significant else "white"
                axes.plot([low, high], [row, row], "-", color=look["color"], linewidth=2.2)
                axes.plot(
                    mean, row, color=look["color"], marker=look["marker"], markersize=8,
                    markeredgewidth=1.8, markerfacecolor=face,
                )  # fmt: skip
        better = {1: " (right is better)", -1: " (left is better)", 0: ""}[metric.better]
        axes.set_title(metric.label + better, fontsize=11)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(PLAIN)
        axes.grid(axis="y", visible=False)
    panels[0, 0].set_yticks(range(len(names)), [in_plot(name) for name in names])
    for unused in panels.flat[len(metrics) :]:
        unused.set_visible(False)
    figure.supxlabel(
        "Difference to SFT, 95% interval over test examples; filled: significant", fontsize=11
    )
    return figure


@house_style()
def _draw_curves(rows: Sequence[Row]) -> Figure | None:
    """Forward and reverse KL to the teacher on held-out conversations, during training."""
    curves = {row.name: logged for row in rows if (logged := logged_curves(row)) is not None}
    if not curves:
        return None
    style = styles(rows)
    figure = Figure(figsize=(6.6, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, (title, key) in zip(panels, LOGGED.items(), strict=True):
        for name, logged in curves.items():
            steps, values = logged[key]  # [steps], [seeds, steps]
            look = style[name]
            axes.plot(steps, values.mean(0), label=in_plot(name), markersize=5, **look)
            if len(values) > 1:
                axes.fill_between(
                    steps, values.min(0), values.max(0), color=look["color"], alpha=0.18,
                    linewidth=0,
                )  # fmt: skip
        axes.set(title=title, xlabel="step", yscale="log")
        axes.yaxis.set_major_formatter(PLAIN)
        axes.yaxis.set_minor_formatter(PLAIN)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panels[0].set_ylabel("nats per token")
    _legend(figure, panels[0])
    return figure


@house_style()
def _draw_modes(rows: Sequence[Row]) -> Figure | None:
    """A point a run: coverage of the truth against precision of the answers."""
    shown = [row for row in rows if row.has("precision") and row.has("coverage")]
    if not shown:
        return None
    style = styles(rows)
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    axes = figure.subplots()
    # The students fill the frame; the models they came from may lie outside.
    shown.sort(key=lambda row: row.gives != "")
    for row in shown:
        look = {key: value for key, value in style[row.name].items() if key != "linestyle"}
        points = np.array(
            [
                [run.evaluation["metrics"][name]["mean"] for name in ("precision", "coverage")]
                for run in row.runs
            ]
        )
        label = in_plot(row.name)
        if row.gives and shown[0] is not row:
            low, high = np.transpose([axes.get_xlim(), axes.get_ylim()])
            axes.autoscale(False)
            if not ((low <= points) & (points <= high)).all():
                label += " ({:z.2f}, {:z.2f}; off the frame)".format(*points.mean(0))
        axes.plot(
            *points.T, linestyle="none", label=label, markeredgewidth=1.8,
            markersize=14 if look["marker"] == "*" else 9, **look,
        )  # fmt: skip
        axes.margins(0.12)
    axes.set(
        title="Coverage against precision, one point per run",
        xlabel="precision: share of answers that the grammar can say",
        ylabel="coverage: share of the truth given a tenth of its due",
    )
    _legend(figure, axes)
    return figure


def logged_curves(row: Row) -> dict[str, tuple[np.ndarray, np.ndarray]] | None:
    """For each logged key the steps that all seeds have, [s], and the values, [seeds, s]."""
    curves = {}
    for key in LOGGED.values():
        of_seeds = [
            {line["step"]: line[key] for line in run.log if key in line} for run in row.runs
        ]
        steps = sorted(set.intersection(*map(set, of_seeds)))
        if not steps:
            return None
        curves[key] = np.array(steps), np.array([[one[step] for step in steps] for one in of_seeds])
    return curves


def _legend(figure: Figure, axes: Axes) -> None:
    """Draw the legend below the panels, so that it hides no curve."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 1 if max(map(len, labels)) > 40 else 2
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, handlelength=3, fontsize=11
    )


def _files(name: str, figure: Figure) -> Pictures:
    files = {}
    for suffix in FORMATS:
        content = io.BytesIO()
        # Without dates and random ids, equal runs give equal files.
        with house_style(), matplotlib.rc_context({"svg.hashsalt": name}):
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(content, format=suffix, dpi=160, metadata=metadata)
        files[f"{name}.{suffix}"] = content.getvalue()
    return files
