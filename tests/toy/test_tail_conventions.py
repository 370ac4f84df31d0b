"""The picture of where descent ends."""

import pytest

from toy import tail_conventions
from toy.one_softmax import DIRECTIONS, TAILS
from toy.tail_conventions import draw, main, tail_masses


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(tail_conventions, "STEPS", 20)


def test_a_mark_for_each_convention_in_each_direction():
    masses = tail_masses()
    assert masses.keys() == set(DIRECTIONS)
    (axes,) = draw(masses).axes
    for line, direction in zip(axes.lines, DIRECTIONS, strict=False):
        assert list(line.get_xdata()) == list(masses[direction].values())
        assert line.get_label() == direction.replace("_kl", " KL")
    assert len(axes.get_yticklabels()) == len(TAILS)


def test_the_script_writes_the_picture(tmp_path, capsys):
    main(["--out", str(tmp_path)])
    assert (tmp_path / "tail_conventions.png").stat().st_size > 5_000
    assert "tail_conventions.png" in capsys.readouterr().out
