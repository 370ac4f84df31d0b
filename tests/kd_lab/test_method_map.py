"""The map says of every method what its recipe does."""

import pytest

from kd_lab.cli import parse
from kd_lab.method_map import DIVERGENCES, METHODS, PREFIXES

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
