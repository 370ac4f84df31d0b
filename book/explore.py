"""Sliders over a picture, for the notebooks.

``make test`` runs the notebooks with nbclient. The output area of ``ipywidgets.interact`` makes
nbclient hang now and then (nbclient issue 312), so the picture here has its own widget.
"""

from collections.abc import Callable

from ipywidgets import Image, VBox, Widget

from kd_lab.house_style import Figure


def explore(draw: Callable[..., Figure], **sliders: Widget) -> VBox:
    """The picture ``draw(name=value, ...)``, redrawn whenever one of its sliders moves.

    Args:
        draw: returns a Figure; bind arguments without a slider with ``functools.partial``.
        sliders: a widget with a ``value`` for each other argument, under its name.
    """
    picture = Image(format="png")

    def redraw(_: object = None) -> None:
        figure = draw(**{name: slider.value for name, slider in sliders.items()})
        picture.value = figure.png(dpi=80)

    for slider in sliders.values():
        slider.observe(redraw, "value")
    redraw()
    return VBox([*sliders.values(), picture])
