"""The map says of every method what its recipe does, and draws each of them once."""

import io

import matplotlib.pyplot as plt
import pytest

from kd_lab.cli import parse
from kd_lab.method_map import DIVERGENCES, METHODS, PREFIXES, draw_method_map

ENDS = {"forward_kl": "forward KL", "reverse_kl": "reverse KL"}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_method_lies_where_its_recipe_does(method):
    *_, config = parse("train", ["--config", f"tiny/{method.recipe}", *method.options])
    prefixes = "dataset and student" if 0 < config.student_share < 1 else config.prefixes
    divergence = ENDS.get(config.divergence, "in between") if config.alpha else "none"
    assert (prefixes, divergence) == (method.prefixes, method.divergence)
    if config.alpha not in (0, 1):
        pytest.fail(f"a point of the map is one objective, and alpha is {config.alpha}")


def test_no_two_methods_run_alike():
    assert len({(m.recipe, m.options) for m in METHODS}) == len(METHODS)
    assert {m.prefixes for m in METHODS} == set(PREFIXES)
    assert {m.divergence for m in METHODS} == set(DIVERGENCES)


def test_the_picture_names_each_method_once_and_no_two_overlap():
    figure = draw_method_map()
    figure.savefig(io.BytesIO())  # lays it out
    [ax] = figure.axes
    written = [text for text in ax.texts if text.get_text()]
    names = [text.get_text().replace("\n", " ") for text in written]
    assert all(names.count(method.name) == 1 for method in METHODS)
    boxes = [text.get_window_extent() for text in written]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i]), names[i]
        assert ax.get_window_extent().contains(box.x0, box.y0), names[i]
        assert ax.get_window_extent().contains(box.x1, box.y1), names[i]
    plt.close(figure)
