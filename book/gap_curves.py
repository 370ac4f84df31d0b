"""The curves of ``evidence/heads_and_tails.py``: the gap that is left, and the head's lead."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_lab.house_style import line_style
from kd_lab.named_divergence import NamedDivergence
from kd_lab.study.sweep import over_seeds

Floats = NDArray[np.float64]

NAMES = {"forward_kl": "forward KL", "reverse_kl": "reverse KL", "adaptive_kl": "adaptive KL"}


def left_of(curves: Mapping[str, ArrayLike], part: str) -> Floats:
    """The share of the start's gap that is left, [seeds, steps].

    Args:
        curves: one divergence's, metric -> [seeds][steps].
        part: "head" or "tail".
    """
    gap = np.asarray(curves[part], float)
    return gap / gap[:, :1]


def head_lead(curves: Mapping[str, ArrayLike]) -> Floats:
    """The closed share of the head's gap less that of the tail's, in points [seeds, steps]."""
    return 100 * (left_of(curves, "tail") - left_of(curves, "head"))


def draw_curves(
    curves: Mapping[str, Mapping[str, ArrayLike]], at: Sequence[int], divergences: Sequence[str]
) -> None:
    """The shares left of both gaps, and the head's lead: means and 95% t-intervals."""
    figure, axes = plt.subplots(1, 3, figsize=(7.4, 3.2), layout="constrained")
    for name in divergences:
        style = line_style(NamedDivergence(name).line)
        drawn = {
            "left of the head's gap": left_of(curves[name], "head"),
            "left of the tail's gap": left_of(curves[name], "tail"),
            "lead of the head, points": head_lead(curves[name]),
        }
        for ax, (title, values) in zip(axes, drawn.items(), strict=True):
            figures = [over_seeds(of_step) for of_step in values.T]
            low, mean, high = ([f[key] for f in figures] for key in ("low", "mean", "high"))
            ax.plot(at, mean, label=NAMES[name], **style)
            if low[0] is not None:
                ax.fill_between(at, low, high, color=style["color"], alpha=0.15, linewidth=0)
            ax.set_title(title, fontsize=10)
            ax.set_xlabel("step")
    axes[2].axhline(0, color="0.5", linewidth=1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    plt.show()
