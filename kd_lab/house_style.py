"""One look for every figure, whatever this machine's matplotlib is set to.

    with house_style():
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        figure.savefig("figure.png")

Neither MPLBACKEND nor a user's matplotlibrc changes a picture. pyplot, which opens the backend, is
not used. Matplotlib's own defaults come before ``kd_lab/figures.mplstyle``.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import matplotlib.figure
import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg

STYLE = "kd_lab.figures"


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's defaults and our style; also a decorator, ``@house_style()``."""
    with matplotlib.style.context(STYLE, after_reset=True):
        yield


GREY = "#6E6E6E"


def line_style(line: int | None) -> dict[str, Any]:
    """``color`` and ``linestyle`` of a line of the style's cycle; grey and dash-dotted for None."""
    if line is None:
        return {"color": GREY, "linestyle": "-."}
    with house_style():
        cycle = list(matplotlib.rcParams["axes.prop_cycle"])
    return cycle[line % len(cycle)]


class Figure(matplotlib.figure.Figure):
    """A figure that pyplot does not know. A notebook shows it as a cell's value, whole."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        FigureCanvasAgg(self)

    def png(self, dpi: float | None = None, **settings: Any) -> bytes:
        """The picture as PNG, at the figure's own resolution unless another is given."""
        content = io.BytesIO()
        with house_style():
            self.savefig(content, format="png", dpi=dpi or self.dpi, **settings)
        return content.getvalue()

    def _repr_png_(self) -> bytes:
        """What IPython asks for; cut as its own inline backend cuts."""
        return self.png(bbox_inches="tight")
