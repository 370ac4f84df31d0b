"""The map *prefix source × divergence*, and where the methods of the literature lie on it.

A method is data: its two coordinates, who proposed it, and the words of ``kd-lab train`` that run
it on the toy language. So the picture, the runs in the notebooks and the tests read one list.
"""

import textwrap
from collections import defaultdict
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from kd_lab.house_style import house_style

PREFIXES = ("dataset", "teacher", "dataset and student", "student")
DIVERGENCES = ("none", "forward KL", "in between", "reverse KL")
HEADINGS = {
    "none": "the answer's own\nlikelihood (SFT)",
    "forward KL": "forward KL\nD(p‖q)",
    "in between": "in between: JSD,\nskew, adaptive, TVD",
    "reverse KL": "reverse KL\nD(q‖p)",
}
ROWS = {
    "dataset": "the dataset",
    "teacher": "the teacher",
    "dataset and student": "dataset\nand student, λ",
    "student": "the student",
}
COLOURS = {
    "none": "#5A5A5A",
    "forward KL": "#0072B2",
    "in between": "#007A5A",
    "reverse KL": "#B84A00",
}


class Method(NamedTuple):
    """A point of the map."""

    name: str
    prefixes: str  # one of PREFIXES: who wrote the answers that are learnt from
    divergence: str  # one of DIVERGENCES: the column
    source: str  # who proposed it; "" for a plain combination
    recipe: str  # of tiny/
    options: tuple[str, ...] = ()  # after the recipe


METHODS = (
    Method("SFT", "dataset", "none", "", "sft"),
    Method("token-level FKL", "dataset", "forward KL", "Hinton et al. 2015", "token_fkl"),
    Method("token-level JSD", "dataset", "in between", "", "token_jsd"),
    Method("AKL", "dataset", "in between", "Wu et al. 2024", "token_akl"),
    Method("token-level RKL", "dataset", "reverse KL", "", "token_rkl"),
    Method("SeqKD", "teacher", "none", "Kim and Rush 2016", "seqkd"),
    Method("sequence-level FKL", "teacher", "forward KL", "", "seq_fkl"),
    Method(
        "DistiLLM-2, teacher's half", "teacher", "in between", "Ko et al. 2025", "seq_fkl",
        ("--divergence", "skew_forward_kl", "--divergence_settings", "{alpha: 0.1}"),
    ),
    Method(
        "ImitKD", "dataset and student", "forward KL", "Lin et al. 2020", "gkd",
        ("--divergence", "forward_kl", "--divergence_settings", "{}"),
    ),
    Method("GKD", "dataset and student", "in between", "Agarwal et al. 2023", "gkd"),
    Method("DistiLLM", "dataset and student", "in between", "Ko et al. 2024", "distillm"),
    Method(
        "DistiLLM-2, student's half", "student", "in between", "Ko et al. 2025", "seq_rkl",
        ("--divergence", "skew_reverse_kl", "--divergence_settings", "{alpha: 0.1}"),
    ),
    Method("on-policy distillation", "student", "reverse KL", "Agarwal et al. 2023", "seq_rkl"),
    Method("MiniLLM", "student", "reverse KL", "Gu et al. 2023", "minillm"),
)  # fmt: skip


def draw_method_map() -> Figure:
    """The map as a figure: a cell for each pair, in it the methods that lie there."""
    cells: dict[tuple[str, str], list[Method]] = defaultdict(list)
    for method in METHODS:
        cells[method.prefixes, method.divergence].append(method)
    with house_style():
        figure, ax = plt.subplots(figsize=(8, 6), layout="constrained")
        ax.set(xlim=(-0.5, 3.5), ylim=(3.5, -0.5))
        ax.set_xticks(range(4), [HEADINGS[name] for name in DIVERGENCES], size=12)
        ax.set_yticks(range(4), [ROWS[name] for name in PREFIXES], size=12)
        ax.set_xlabel("what compares the next-token laws of teacher and student", size=12)
        ax.set_ylabel("who wrote the answer up to there", size=12)
        ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        ax.xaxis.set_label_position("top")
        ax.spines[:].set_visible(False)
        ax.grid(visible=False)
        for border in (0.5, 1.5, 2.5):
            ax.axhline(border, color="#D9D9D9", linestyle="-", linewidth=1)
            ax.axvline(border, color="#D9D9D9", linestyle="-", linewidth=1)
        for (prefixes, divergence), methods in cells.items():
            column, row = DIVERGENCES.index(divergence), PREFIXES.index(prefixes)
            for i, method in enumerate(methods):
                name = textwrap.fill(method.name, 17)
                # A name of two lines begins higher, so that its cell's texts lie lower.
                y = row + 0.42 * (i - (len(methods) - 1) / 2) + 0.1 * ("\n" in name)
                place: dict[str, Any] = {"ha": "center", "color": COLOURS[divergence]}
                shift = 0.02 if method.source else -0.06
                ax.text(column, y - shift, name, va="bottom", size=12, weight="bold", **place)
                ax.text(column, y + 0.02, method.source, va="top", size=10, **place)
    return figure
