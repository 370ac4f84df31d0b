"""The picture of the map draws each method once."""

import io

import matplotlib.pyplot as plt

from book.method_figure import draw_method_map
from kd_lab.methods import METHODS


def test_the_picture_names_each_method_once_and_no_two_overlap():
    figure = draw_method_map()
    figure.savefig(io.BytesIO())  # lays it out
    [ax] = figure.axes
    written = [text for text in ax.texts if text.get_text()]
    names = [text.get_text().replace("\n", " ") for text in written]
    assert all(names.count(method.name) == 1 for method in METHODS.values())
    boxes = [text.get_window_extent() for text in written]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i]), names[i]
        assert ax.get_window_extent().contains(box.x0, box.y0), names[i]
        assert ax.get_window_extent().contains(box.x1, box.y1), names[i]
    plt.close(figure)
