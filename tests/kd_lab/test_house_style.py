"""Pictures are the same on every machine: no backend and no matplotlibrc of its user counts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from kd_lab.house_style import Figure, house_style
from toy.token_sequence_diagram import token_sequence_diagram

HERE = Path(__file__).parents[2]
USERS = {
    "text.usetex": True,
    "font.family": ["no such font"],
    "mathtext.fontset": "cm",
    "figure.dpi": 37,
    "savefig.bbox": "tight",
    "savefig.dpi": 50,
}


def picture() -> bytes:
    with house_style():
        figure = Figure(figsize=(3, 2), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [1, 0], label="$D(p\\,\\Vert\\,q)$")
        axes.legend()
    return figure.png()


def test_settings_of_the_user_change_no_picture_and_stay_as_they_are():
    plain = picture()
    with matplotlib.rc_context(USERS):
        assert picture() == plain
        assert matplotlib.rcParams["text.usetex"] is True
    assert len(plain) > 3000


def test_a_notebook_is_given_the_picture_cut_to_its_content():
    figure = Figure(figsize=(3, 2))
    figure.text(0.5, 0.5, "x")
    shown = figure._repr_png_()
    assert shown.startswith(b"\x89PNG")
    assert _width(shown) < _width(figure.png()) == 300


def test_a_script_draws_under_a_notebook_s_backend_that_is_not_installed(tmp_path):
    users = tmp_path / "matplotlibrc"
    users.write_text("text.usetex: True\nsavefig.bbox: tight\nfont.family: Nothing\n", "utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "toy.token_sequence_diagram", "--out", str(tmp_path)],
        env={**os.environ, "MPLBACKEND": "module://not_installed", "MATPLOTLIBRC": str(users)},
        cwd=HERE,
        capture_output=True,
        check=True,
    )
    assert b"Traceback" not in ended.stderr
    drawn = (tmp_path / "token-sequence-level.png").read_bytes()
    assert drawn == token_sequence_diagram().png(dpi=100)


@pytest.mark.parametrize("folder", ["evidence", "kd_lab", "toy"])
def test_only_the_book_uses_pyplot(folder):
    """It opens a backend; the pictures of book/ are shown in notebooks, which have one."""
    assert not [
        path.relative_to(HERE).as_posix()
        for path in (HERE / folder).rglob("*.py")
        if re.search(r"^\s*(import|from) matplotlib.*pyplot", path.read_text("utf-8"), re.M)
    ]


def _width(png: bytes) -> int:
    return int.from_bytes(png[16:20], "big")
