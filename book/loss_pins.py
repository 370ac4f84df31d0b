"""Where losses of a sampled word push each logit on average, as pins over the words."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from kd_lab.house_style import Figure, house_style, line_style

MARKERS = "os^D"


@house_style()
def loss_pins(words: Sequence[str], gradients: Mapping[str, Tensor]) -> Figure:
    """A pin a word and loss: minus the gradient to the logit.

    Args:
        words: V of them.
        gradients: what the legend says -> gradient [V].
    """
    figure = Figure(figsize=(6, 3.9), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(words))
    for number, (label, gradient) in enumerate(gradients.items()):
        x = place + 0.18 * (number - (len(gradients) - 1) / 2)
        look = line_style(number + 1)  # the first blue is the teacher's
        push = -gradient.numpy()
        axes.vlines(x, 0, push, color=look["color"], linestyle="-", linewidth=2.5)
        axes.plot(
            x, push, linestyle="", marker=MARKERS[number % len(MARKERS)], markersize=6,
            color=look["color"], label=label,
        )  # fmt: skip
    axes.axhline(0, color="black", linewidth=1, linestyle="-")
    axes.set_xticks(place, words)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("push on the logit")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
