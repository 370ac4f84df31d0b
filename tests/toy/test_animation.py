"""The GIFs as they are read back: frames, colours, and nothing covered or cut off."""

import numpy as np
import pytest
import torch
from PIL import Image

from toy import animation
from toy.animation import STUDENT, TARGET, draw_gif
from toy.mixture_fit import POST_TARGET, Mixture, fit

AXES_TOP = 76  # pixels: above are title, numbers and legend


def frames_of(path) -> list[np.ndarray]:
    with Image.open(path) as gif:
        frames = []
        for index in range(gif.n_frames):
            gif.seek(index)
            frames.append(np.asarray(gif.convert("RGB")).astype(int))
    return frames


def near(frame: np.ndarray, ink: str, tolerance: int = 12) -> np.ndarray:
    rgb = np.array([int(ink[i : i + 2], 16) for i in (1, 3, 5)])
    return (abs(frame - rgb) <= tolerance).all(-1)  # [400, 800]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Reverse KL from the post's start, whose peak passes 0.8, where the original is cut."""
    fitted = fit(POST_TARGET, [5.0], 1.0, divergence="reverse_kl", steps=100)
    path = tmp_path_factory.mktemp("gif") / "rev_kl.gif"
    draw_gif(fitted, path)
    return fitted, path, frames_of(path)


def test_the_gif_has_the_posts_form(narrow):
    _, path, _ = narrow
    with Image.open(path) as gif:
        assert gif.size == (800, 400)
        assert gif.n_frames == 100
        assert gif.info["loop"] == 0
        for index in range(gif.n_frames):
            gif.seek(index)
            assert gif.info["duration"] == 100
            assert "transparency" not in gif.info
            assert gif.convert("RGBA").getextrema()[3] == (255, 255)


def test_inks_are_exact(narrow):
    _, _, frames = narrow
    colours = {tuple(colour) for colour in np.unique(frames[50].reshape(-1, 3), axis=0).tolist()}
    assert {(255, 255, 255), (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0, 0, 0)} <= colours
    assert len(colours) <= 256


def test_no_curve_is_cut_off_or_runs_into_the_legend(narrow):
    fitted, _, frames = narrow
    assert float(1 / (fitted.sigma.min() * np.sqrt(2 * np.pi))) > 0.9
    legend = near(frames[0], STUDENT)[:AXES_TOP]
    for frame in frames:
        student = near(frame, STUDENT)
        # Above the axes there is the legend's own sample of the line and nothing else.
        np.testing.assert_array_equal(student[:AXES_TOP], legend)
        assert not student[AXES_TOP : AXES_TOP + 3].any()
        assert student[AXES_TOP:].any()


def test_the_student_stands_where_it_should(narrow):
    fitted, _, frames = narrow
    for step, frame in enumerate(frames):
        rows, columns = np.nonzero(near(frame, STUDENT)[AXES_TOP:])
        peak = columns[rows == rows.min()].mean()
        left, right = 0.08 * 800, 0.98 * 800  # of the axes
        x = -6 + 12 * (peak - left) / (right - left)
        # The line is dashed: its highest pixel may lie a dash away from the top.
        assert x == pytest.approx(float(fitted.mu[step]), abs=0.35)


def test_frames_are_spread_over_the_steps(tmp_path):
    short, long = (fit(POST_TARGET, [-1.0, 1.0], 5.0, steps=steps) for steps in (7, 40))
    draw_gif(short, tmp_path / "short.gif")
    assert len(frames_of(tmp_path / "short.gif")) == 7
    draw_gif(long, tmp_path / "long.gif", frames=4)
    draw_gif(long, tmp_path / "all.gif", frames=40)
    every_tenth = frames_of(tmp_path / "all.gif")[::10]
    for expected, frame in zip(every_tenth, frames_of(tmp_path / "long.gif"), strict=True):
        np.testing.assert_array_equal(frame, expected)


def test_another_start_of_a_batch_can_be_drawn(tmp_path):
    together = fit(POST_TARGET, [[5.0], [-4.0]], 2.0, steps=5)
    draw_gif(together, tmp_path / "second.gif", start=1)
    draw_gif(fit(POST_TARGET, [-4.0], 2.0, steps=5), tmp_path / "alone.gif")
    for one, other in zip(
        frames_of(tmp_path / "second.gif"), frames_of(tmp_path / "alone.gif"), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_the_window_grows_with_a_target_outside_it(tmp_path):
    target = Mixture((0.0, 9.0), (0.5, 0.3), (0.5, 0.5))
    draw_gif(fit(target, [8.0], 1.0, steps=2), tmp_path / "wide.gif")
    frame = frames_of(tmp_path / "wide.gif")[0]
    columns = np.nonzero(near(frame, TARGET)[AXES_TOP:200])[1]
    # Two peaks, the narrower one higher, both well inside the axes.
    assert columns.max() < 0.95 * 800


def test_numbers_of_many_components_stay_clear_of_the_title(tmp_path):
    means = torch.linspace(-5, 5, 6).tolist()
    draw_gif(fit(POST_TARGET, means, 1.0, steps=2), tmp_path / "six.gif")
    draw_gif(fit(POST_TARGET, [0.0], 1.0, steps=2), tmp_path / "one.gif")
    six, one = (frames_of(tmp_path / f"{name}.gif")[0] for name in ("six", "one"))
    np.testing.assert_array_equal(six[:70, 205:], one[:70, 205:])


def test_an_interrupted_drawing_leaves_the_old_file(tmp_path):
    path = tmp_path / "fwd_kl.gif"
    path.write_bytes(b"the old figure")

    def interrupt(steps):
        yield next(iter(steps))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_gif(fit(POST_TARGET, [5.0], 5.0, steps=3), path, progress=interrupt)
    assert path.read_bytes() == b"the old figure"
    assert list(tmp_path.iterdir()) == [path]


def test_a_frame_is_what_matplotlib_draws_from_nothing(narrow):
    fitted, _, frames = narrow
    shown = range(100)
    x, p, q = animation._curves(fitted, shown, 0)
    stage = animation._Stage("reverse_kl", x, p, animation._ceiling(p, q), texts=["KL = 0.0000"])
    stage.student.set(ydata=q[12], animated=False)
    stage.canvas.draw()
    # Between the strip of numbers and the axis: a full drawing puts that over the curve.
    inside = np.s_[AXES_TOP:344]
    full = np.asarray(stage.canvas.buffer_rgba())[inside][..., :3].astype(int)
    difference = abs(full - frames[12][inside])
    assert difference.max() <= 40  # where curve, target and grid blend in one pixel
    assert difference.mean() < 0.1
