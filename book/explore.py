"""Sliders over a picture, for the notebooks.

``ipywidgets.interact`` would do, but for one thing: its output area makes nbclient, which runs the
notebooks for ``make test``, hang now and then (nbclient issue 312). A picture of our own does not.
"""

from collections.abc import Callable

from ipywidgets import Image, VBox, Widget

from kd_lab.house_style import Figure


def explore(draw: Callable[..., Figure], **sliders: Widget) -> VBox:
    """The picture ``draw(name=value, ...)``, drawn again whenever one of its sliders moves.

    Args:
        draw: returns a Figure; bind what no slider moves with ``functools.partial``.
        sliders: a widget with a ``value`` for each of the other arguments, under their names.
    """
    picture = Image(format="png")

    def redraw(_: object = None) -> None:
        figure = draw(**{name: slider.value for name, slider in sliders.items()})
        picture.value = figure.png(dpi=80)

    for slider in sliders.values():
        slider.observe(redraw, "value")
    redraw()
    return VBox([*sliders.values(), picture])
