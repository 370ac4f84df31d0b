"""Figure 3 of the post: distillation at token level and at sequence level.

Both compare the teacher's distribution p(. | x, y_<t) and the student's q(. | x, y_<t), given the
same prefix. At token level the answer is given by a dataset. At sequence level one of the two
models writes it first. The writer decides which KL between whole answers is measured.

Writes token-sequence-level.png. Nothing in it is random: --seed, which every script here takes,
changes nothing.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from kd_lab.files import whole_file
from kd_lab.house_style import Figure, house_style
from toy.script import run_script, script_parser, writable_folder

TEACHER, STUDENT = "#0072B2", "#D55E00"
INK, QUIET = "#1A1A1A", "#5A5A5A"

TOKENS = ("I", "think", "your", "idea", "is", "great", "!")
# The distributions drawn as bars, over four words; at sure positions they are sharp.
TEACHER_DISTRIBUTIONS = (
    (0.60, 0.20, 0.15, 0.05),
    (0.70, 0.10, 0.15, 0.05),
    (0.10, 0.45, 0.10, 0.35),
    (0.05, 0.10, 0.75, 0.10),
    (0.05, 0.85, 0.05, 0.05),
    (0.40, 0.10, 0.20, 0.30),
    (0.15, 0.05, 0.10, 0.70),
)
STUDENT_DISTRIBUTIONS = (
    (0.35, 0.30, 0.25, 0.10),
    (0.50, 0.30, 0.10, 0.10),
    (0.30, 0.30, 0.20, 0.20),
    (0.20, 0.20, 0.45, 0.15),
    (0.10, 0.70, 0.15, 0.05),
    (0.15, 0.35, 0.20, 0.30),
    (0.30, 0.15, 0.15, 0.40),
)


def token_sequence_diagram() -> Figure:
    """The whole figure, 1200 x 980 pixels; one unit of its axes is one pixel."""
    with house_style():
        figure = Figure(figsize=(12, 9.8))
        ax = figure.add_axes((0, 0, 1, 1), xlim=(0, 1200), ylim=(0, 980))
        ax.axis("off")
        _question_and_answer(ax)
        _token_level(ax)
        _sequence_level(ax)
    return figure


def _question_and_answer(ax: Axes) -> None:
    _box(ax, 25, 890, 500, 65, "white")
    _write(ax, 45, 922, "prompt $x$:", color=QUIET)
    _write(ax, 178, 922, "“Is my idea any good?”", style="italic")
    _arrow(ax, (533, 922), (627, 922))
    _box(ax, 635, 890, 540, 65, "white")
    _write(ax, 655, 922, "answer $y$:", color=QUIET)
    _write(ax, 790, 922, "“I think your idea is great!”", style="italic")


def _token_level(ax: Axes) -> None:
    _box(ax, 25, 415, 1150, 450, "#EAF3FA")
    _write(ax, 45, 830, "Token level", weight="bold", size=21)
    _write(ax, 250, 829, "the answer is given; compare next-token distributions at each prefix")
    _write(ax, 45, 770, "next: $y_t$", color=QUIET)
    _write(ax, 45, 700, "teacher", color=TEACHER, weight="bold")
    _write(ax, 45, 668, r"$p(\cdot\,|\,x, y_{<t})$", color=TEACHER, size=16)
    _write(ax, 45, 560, "student", color=STUDENT, weight="bold")
    _write(ax, 45, 528, r"$q_\theta(\cdot\,|\,x, y_{<t})$", color=STUDENT, size=16)
    for t, token in enumerate(TOKENS):
        x = 263 + 139 * t
        _box(ax, x - 56, 748, 112, 44, "white")
        _write(ax, x, 770, token, ha="center", style="italic")
        _bars(ax, x, 656, TEACHER_DISTRIBUTIONS[t], TEACHER)
        _arrow(ax, (x, 596), (x, 646), style="<|-|>")
        _write(ax, x + 14, 621, f"$d_{t + 1}$")
        _bars(ax, x, 516, STUDENT_DISTRIBUTIONS[t], STUDENT, hatch="///")
    kl = r"$d_t = D(p\,\Vert\,q_\theta)$  or  $D(q_\theta\,\Vert\,p)$"
    _write(ax, 600, 457, f"loss = mean of the $d_t$,  with  {kl}", ha="center")


def _sequence_level(ax: Axes) -> None:
    _box(ax, 25, 25, 1150, 365, "#F1F1F1")
    _write(ax, 45, 355, "Sequence level", weight="bold", size=21)
    _write(ax, 315, 354, "a model writes the answer; compare the distributions along it")
    forward, reverse = r"$D(p\,\Vert\,q_\theta)$", r"$D(q_\theta\,\Vert\,p)$"
    sample, own_sample = "“I think your idea is great!”", "“Your idea is very good.”"
    _writer(ax, 268, "teacher", r"$s\sim p(\cdot\,|\,x)$", sample, "forward KL", forward, TEACHER)
    _writer(
        ax,
        163,
        "student",
        r"$y\sim q_\theta(\cdot\,|\,x)$",
        own_sample,
        "reverse KL",
        reverse,
        STUDENT,
    )
    _write(
        ax,
        600,
        73,
        "on average over samples, the $d_t$ add up to the KL of whole answers",
        ha="center",
    )


def _writer(
    ax: Axes,
    y: float,
    model: str,
    formula: str,
    sample: str,
    name: str,
    divergence: str,
    color: str,
) -> None:
    _write(ax, 45, y + 17, model, color=color, weight="bold")
    _write(ax, 45, y - 16, formula, color=color, size=16)
    _arrow(ax, (205, y), (350, y), color)
    _write(ax, 272, y + 19, "sample", ha="center", size=16)
    _box(ax, 362, y - 33, 430, 66, "white")
    _write(ax, 577, y, sample, ha="center", style="italic")
    _arrow(ax, (804, y), (950, y), color)
    _write(ax, 870, y + 24, r"$\Sigma_t\, d_t$", ha="center")
    _write(ax, 970, y + 17, name, color=color, weight="bold")
    _write(ax, 970, y - 18, f"$=$ {divergence}", color=color)


def _box(ax: Axes, left: float, bottom: float, width: float, height: float, color: str) -> None:
    style = f"round,pad=0,rounding_size={min(18, height / 3)}"
    ax.add_patch(
        FancyBboxPatch((left, bottom), width, height, boxstyle=style, fc=color, ec="#9A9A9A")
    )


def _write(ax: Axes, x: float, y: float, text: str, **style: Any) -> None:
    ours: dict[str, Any] = {"size": 18, "color": INK, "va": "center"}
    ax.text(x, y, text, **ours | style)


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    color: str = INK,
    style: str = "-|>",
) -> None:
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle=style, color=color, lw=2, mutation_scale=18, shrinkA=0, shrinkB=0
        )
    )


def _bars(
    ax: Axes,
    center: float,
    bottom: float,
    distribution: Sequence[float],
    color: str,
    hatch: str = "",
) -> None:
    for i, probability in enumerate(distribution):
        corner = (center - 47 + 24 * i, bottom)
        ax.add_patch(
            Rectangle(corner, 22, 84 * probability, fc=color, ec="white", lw=0, hatch=hatch)
        )
    ax.plot([center - 50, center + 50], [bottom, bottom], color=INK, lw=1.2, ls="-")


def main(argv: Sequence[str] | None = None) -> None:
    arguments = script_parser(__doc__).parse_args(argv)
    path = writable_folder(arguments.out) / "token-sequence-level.png"
    figure = token_sequence_diagram()
    with whole_file(path) as part, house_style():
        figure.savefig(part, dpi=100)
    print(f"wrote {path}")


if __name__ == "__main__":
    run_script(main)
