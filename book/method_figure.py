"""The map *prefix source × divergence* as a picture, with the methods of the literature on it."""

import textwrap
from collections import defaultdict
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from kd_lab.house_style import house_style
from kd_lab.methods import COLUMNS, METHODS, ROWS, Method

HEADINGS = {
    "none": "the answer's own\nlikelihood (SFT)",
    "forward KL": "forward KL\nD(p‖q)",
    "in between": "in between: JSD,\nskew, adaptive, αβ",
    "reverse KL": "reverse KL\nD(q‖p)",
}
SOURCES = {
    "dataset": "the dataset",
    "teacher": "the teacher",
    "dataset and student": "dataset\nand student, λ",
    "teacher and student": "teacher\nand student, λ",
    "student": "the student",
}
COLOURS = {
    "none": "#5A5A5A",
    "forward KL": "#0072B2",
    "in between": "#007A5A",
    "reverse KL": "#B84A00",
}


def draw_method_map() -> Figure:
    """The map as a figure: a cell for each pair, with the methods that lie there."""
    cells: dict[tuple[str, str], list[Method]] = defaultdict(list)
    for method in METHODS.values():
        cells[method.point.row, method.point.column].append(method)
    with house_style():
        figure, ax = plt.subplots(figsize=(8, 7.5), layout="constrained")
        ax.set(xlim=(-0.5, 3.5), ylim=(len(ROWS) - 0.5, -0.5))
        ax.set_xticks(range(4), [HEADINGS[name] for name in COLUMNS], size=12)
        ax.set_yticks(range(len(ROWS)), [SOURCES[name] for name in ROWS], size=12)
        ax.set_xlabel("what compares the next-token distributions of teacher and student", size=12)
        ax.set_ylabel("who wrote the answer up to there", size=12)
        ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        ax.xaxis.set_label_position("top")
        ax.spines[:].set_visible(False)
        ax.grid(visible=False)
        for draw, count in ((ax.axhline, len(ROWS)), (ax.axvline, len(COLUMNS))):
            for border in range(count - 1):
                draw(border + 0.5, color="#D9D9D9", linestyle="-", linewidth=1)
        for (source, heading), methods in cells.items():
            column, row = COLUMNS.index(heading), ROWS.index(source)
            for i, method in enumerate(methods):
                name = textwrap.fill(method.name, 17)
                # A name of two lines begins higher, so that its cell's texts lie lower.
                apart = min(0.42, 0.96 / len(methods))
                y = row + apart * (i - (len(methods) - 1) / 2) + 0.1 * ("\n" in name)
                place: dict[str, Any] = {"ha": "center", "color": COLOURS[heading]}
                shift = 0.02 if method.author else -0.06
                ax.text(column, y - shift, name, va="bottom", size=12, weight="bold", **place)
                ax.text(column, y + 0.02, method.author, va="top", size=10, **place)
    return figure
