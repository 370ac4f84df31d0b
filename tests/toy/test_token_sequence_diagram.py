import subprocess
import sys
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from toy import token_sequence_diagram as diagram


@pytest.fixture
def figure():
    figure = diagram.token_sequence_diagram()
    yield figure
    plt.close(figure)


def run(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "toy.token_sequence_diagram", *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_script_writes_an_opaque_picture_and_says_so(tmp_path):
    done = run("--out", str(tmp_path))
    path = tmp_path / "token-sequence-level.png"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"wrote {path}"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    picture = np.asarray(Image.open(path).convert("RGBA"))
    assert picture.shape == (980, 1200, 4)
    assert (picture[..., 3] == 255).all()
    assert (picture[0, 0] == 255).all()  # white to the corners


def test_a_folder_that_cannot_be_made_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "file").touch()
    refused = run("--out", str(tmp_path / "file" / "folder"))
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert f"cannot write to output folder {tmp_path / 'file' / 'folder'}" in refused.stderr


def test_texts_stay_inside_and_apart(figure):
    renderer = figure.canvas.get_renderer()
    extents = {text: text.get_window_extent(renderer) for text in figure.axes[0].texts}
    assert len(extents) > 25
    for text, box in extents.items():
        assert 40 < box.x0 < box.x1 < 1160, text.get_text()
        assert 40 < box.y0 < box.y1 < 950, text.get_text()
    for (first, box), (second, other) in combinations(extents.items(), 2):
        assert not box.overlaps(other), (first.get_text(), second.get_text())


def test_readable_at_400_pixels(figure):
    """A third of the size leaves letters of 16 points about 7 pixels high."""
    assert min(text.get_size() for text in figure.axes[0].texts) >= 16


def test_every_drawn_distribution_sums_to_one():
    for distributions in (diagram.TEACHER_DISTRIBUTIONS, diagram.STUDENT_DISTRIBUTIONS):
        assert len(distributions) == len(diagram.TOKENS)
        assert np.sum(distributions, axis=1) == pytest.approx(1)
        assert np.min(distributions) > 0
