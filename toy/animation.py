"""Draw a fit as a GIF: 100 frames of target p and student q, 800x400, as in the post.

Most of a frame never changes, so it is drawn once: axes, target, legend and title. Each frame then
adds one curve and two small labels. Pillow does this faster than matplotlib. Every pixel is a blend
of two of a handful of inks. So one fixed palette of such blends serves all frames, and a table
turns colours into palette entries.

Title, numbers and legend stand in a strip above the axes, where no curve can go.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.font_manager import findfont
from matplotlib.patches import FancyBboxPatch
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial import cKDTree

from kd_lab.files import whole_file
from kd_lab.house_style import Figure, house_style
from toy.mixture import log_density
from toy.mixture_fit import Trajectory

PAPER, INK, GRID, TARGET, STUDENT = "#FFFFFF", "#000000", "#D9D9D9", "#0072B2", "#D55E00"
FRAME_SECONDS = 0.1
CURVE_POINTS = 501
TEXT_SIZE = 14  # pixels
WIDEST_BOX = 176  # pixels


def draw_gif(
    trajectory: Trajectory,
    path: Path,
    *,
    frames: int = 100,
    start: int = 0,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> None:
    """Write one start of a fit to ``path`` as an endless animation.

    Frames are spread evenly over the steps: 500 steps give every fifth. A fit of fewer steps than
    ``frames`` gets one frame a step. As in the post, a frame shows the mean after its step, and
    sigma and divergence before it.

    Args:
        progress: wraps the frames' steps, as ``rich.progress.track`` does.
    """
    shown = sorted({frame * len(trajectory.step) // frames for frame in range(frames)})
    x, p, q = _curves(trajectory, shown, start)
    texts = [_numbers(trajectory, step, start) for step in shown]
    stage = _Stage(trajectory.divergence, x, p, top=_ceiling(p, q), texts=texts)
    images = [
        stage.frame(step, curve, text)
        for step, curve, text in zip(progress(shown), q, texts, strict=True)
    ]
    with whole_file(path) as part:
        images[0].save(
            part,
            save_all=True,
            append_images=images[1:],
            duration=round(1000 * FRAME_SECONDS),
            loop=0,
            optimize=False,
            disposal=1,
        )


class _Stage:
    """The picture's fixed parts, drawn once, and its moving parts."""

    def __init__(
        self, divergence: str, x: np.ndarray, p: np.ndarray, top: float, texts: Sequence[str]
    ) -> None:
        self.font = _font(TEXT_SIZE)
        width = max(self.font.getlength(line) for text in texts for line in text.split("\n"))
        # Many components are set smaller, to stay clear of the title.
        self.small_font = _font(TEXT_SIZE * min(1, WIDEST_BOX / width))
        self.box = np.s_[10:62, 16 : 17 + math.ceil(min(width, WIDEST_BOX))]

        with house_style():
            figure = Figure(figsize=(8, 4), dpi=100)
            self.canvas: FigureCanvasAgg = figure.canvas  # type: ignore[assignment]
            self.axes = figure.add_axes((0.08, 0.13, 0.9, 0.68), xlim=(x[0], x[-1]), ylim=(0, top))
            self.axes.set(xlabel="x", ylabel="Probability Density")
            (target,) = self.axes.plot(x, p, color=TARGET, linestyle="-", clip_on=False)
            (self.student,) = self.axes.plot(
                x, p, color=STUDENT, linestyle="--", clip_on=False, animated=True
            )
            figure.legend(
                [target, self.student],
                ["Target Distribution P(x)", "Approximate Distribution Q(x)"],
                loc="upper right",
                bbox_to_anchor=(0.985, 0.985),
                borderaxespad=0,
                fontsize=9,
                handlelength=2.2,
            )
            figure.text(0.46, 0.935, _title(divergence), ha="center", va="center", fontsize=11)
            rows, columns = self.box
            figure.add_artist(
                FancyBboxPatch(
                    (columns.start / 800, 1 - rows.stop / 400),
                    (columns.stop - columns.start) / 800,
                    (rows.stop - rows.start) / 400,
                    boxstyle="round,pad=0.008",
                    mutation_aspect=2,
                    facecolor=PAPER,
                    edgecolor="#B0B0B0",
                )
            )
            self.canvas.draw()
        self.still = self.canvas.copy_from_bbox(figure.bbox)

    def frame(self, step: int, q: np.ndarray, text: str) -> Image.Image:
        self.canvas.restore_region(self.still)
        self.student.set_ydata(q)
        self.axes.draw_artist(self.student)
        palette, nearest = _palette()
        picture = nearest[_code(np.asarray(self.canvas.buffer_rgba()))]  # [400, 800]
        _letter(picture[self.box], text, self.small_font, anchor="la")
        _letter(picture[43:62, 308:428], f"Iteration {step}", self.font, anchor="ma")
        image = Image.fromarray(picture)
        image.putpalette(palette.tobytes())
        return image


def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def _letter(place: np.ndarray, text: str, font: ImageFont.FreeTypeFont, anchor: str) -> None:
    """Write black text into a white place of the picture, [H, W] palette entries."""
    height, width = place.shape
    paper = Image.new("L", (width, height), 255)
    left = width // 2 if anchor[0] == "m" else 0
    ImageDraw.Draw(paper).multiline_text(
        (left, 0), text, fill=0, font=font, anchor=anchor, align="left", spacing=5
    )
    place[:] = _greys()[np.asarray(paper)]


@cache
def _greys() -> np.ndarray:
    """The palette entry of each grey, uint8 [256]."""
    grey = np.arange(256, dtype=np.uint8)
    return _palette()[1][_code(np.stack([grey, grey, grey, grey], axis=-1))]


@cache
def _palette() -> tuple[np.ndarray, np.ndarray]:
    """Blends of any two inks, uint8 [<=256, 3], and the nearest of them for each colour code."""
    inks = np.array([to_rgb(ink) for ink in (PAPER, INK, GRID, TARGET, STUDENT)])
    share = np.linspace(0, 1, 26)[1:-1, None]  # 24 blends for each of 10 pairs
    blends = [(1 - share) * inks[a] + share * inks[b] for a, b in combinations(range(len(inks)), 2)]
    palette = np.round(255 * np.concatenate([inks, *blends])).astype(np.uint8)
    level = np.arange(32, dtype=np.uint8) * 8 + 4  # the middle of each code's cell
    blue, green, red = np.meshgrid(level, level, level, indexing="ij")
    cells = np.stack([red.ravel(), green.ravel(), blue.ravel()], axis=-1)  # [32768, 3]
    nearest = cKDTree(palette.astype(float)).query(cells)[1].astype(np.uint8)
    # The inks themselves come out exactly.
    nearest[_code(np.c_[palette[: len(inks)], np.full(len(inks), 255, np.uint8)])] = range(
        len(inks)
    )
    return palette, nearest


def _code(rgba: np.ndarray) -> np.ndarray:
    """uint8 [..., 4] -> [...]: five bits each of blue, green and red as one number."""
    packed = np.ascontiguousarray(rgba).view("<u4")[..., 0]
    return (packed >> 3 & 0x1F) | (packed >> 6 & 0x3E0) | (packed >> 9 & 0x7C00)


def _curves(
    trajectory: Trajectory, shown: Sequence[int], start: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [G], p(x) [G] and the student's density at each shown step [F, G].

    x runs from -6 to 6 as in the post, and further if target or student lie outside.
    """
    mu, sigma = trajectory.mu[shown, start], trajectory.sigma[shown, start]  # [F, K]
    target = trajectory.target
    sides = [(m - 3 * s, m + 3 * s) for m, s in zip(target.mu, target.sigma, strict=True)]
    low = math.floor(min(-6, float(mu.min()), *(side[0] for side in sides)))
    high = math.ceil(max(6, float(mu.max()), *(side[1] for side in sides)))
    x = torch.linspace(low, high, CURVE_POINTS, dtype=torch.float64)
    log_weight = torch.tensor(trajectory.weight, dtype=torch.float64).log()
    q = log_density(x, mu.double(), sigma.double().log(), log_weight).exp()
    return x.numpy(), target.log_density(x).exp().numpy(), q.numpy()


def _ceiling(p: np.ndarray, q: np.ndarray) -> float:
    """The top of the y axis: the post's 0.8, or the next tenth that no curve touches."""
    return max(0.8, math.ceil(10 * 1.02 * max(p.max(), q.max())) / 10)


def _title(divergence: str) -> str:
    words = ["KL" if word == "kl" else word.capitalize() for word in divergence.split("_")]
    return f"{' '.join(words)} Divergence Minimization"


def _numbers(trajectory: Trajectory, step: int, start: int) -> str:
    mu, sigma = trajectory.mu[step, start].tolist(), trajectory.sigma[step, start].tolist()
    value = float(trajectory.kl[step, start])
    name = "KL" if "kl" in trajectory.divergence.split("_") else "D"
    if len(mu) == 1:
        return f"μ = {mu[0]:.2f}\nσ = {sigma[0]:.2f}\n{name} = {value:.4f}"
    digits = 4 if len(mu) == 2 else 2
    means, widths = (", ".join(f"{value:.{digits}f}" for value in values) for values in (mu, sigma))
    return f"μ = {means}\nσ = {widths}\n{name} = {value:.2e}"
