"""All the figures at once: what it refuses, and the numbers that it holds up."""

import pytest

from toy import figures


def test_names_every_figure_of_the_post():
    names = [name for written in figures.SCRIPTS.values() for name in written]
    assert len(names) == len(set(names)) == 11


def test_a_script_that_fails_is_heard(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match="cannot write to output folder"):
        figures.run("token_sequence_diagram", tmp_path / "file" / "below", tmp_path, seed=0)


def test_arrival_is_the_first_step_below_a_hundredth_of_a_nat():
    trajectory = {"step": [0, 5, 10, 15], "kl": [1.0, 0.02, 0.009, 0.02]}
    assert figures.arrival(trajectory) == "10"
    assert figures.arrival({"step": [0], "kl": [1.0]}) == "never"
