"""Where descent ends on one softmax, by what a loss of a teacher's top k does with the tail.

    python toy/tail_conventions.py    # assets/tail_conventions.png

The student begins flat. Each loss is a KL that knows the teacher's four likeliest words of eight
(toy/one_softmax.py). The picture has the student's mass on the other four after 2,000 steps.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from kd_lab.files import write_bytes
from kd_lab.house_style import Figure, house_style, line_style
from kd_lab.named_divergence import NamedDivergence
from toy.one_softmax import DIRECTIONS, STUDENTS, TAILS, TEACHER, TOP, descend, topk_gradient
from toy.script import Parser, run_script, writable_folder

STEPS = 2000
LABELS = {
    "bucket": "one bucket",
    "even": "shared evenly",
    "truncated": "truncated",
    "clamped": "truncated, clamped at 0",
    "teacher_renormalised": "teacher renormalised",
    "both_renormalised": "both renormalised",
    "fixed": "−100 nats outside",
}
assert set(LABELS) == set(TAILS)


def end(tail: str, direction: str, start: str = "flat") -> Tensor:
    """The student after ``STEPS`` steps, [V]."""
    gradient = partial(topk_gradient, tail, direction, TEACHER)
    return descend(gradient, STUDENTS[start], STEPS)[-1]


@house_style()
def draw(tails: dict[str, dict[str, float]]) -> Figure:
    """The masses of the tail, direction -> convention -> mass; see ``tail_masses``."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    rows = range(len(LABELS))
    for direction, marker, size in zip(DIRECTIONS, ("o", "s"), (9, 6), strict=True):
        look = line_style(NamedDivergence(direction).line)
        axes.plot(
            [tails[direction][tail] for tail in LABELS], rows, linestyle="", marker=marker,
            markersize=size, color=look["color"], label=direction.replace("_kl", " KL"),
        )  # fmt: skip
    share = float(TEACHER[TOP:].sum())
    axes.axvline(share, color="black", linestyle=":", label=f"the teacher's, {share:.2f}")
    axes.axvline(0.5, color="0.6", linestyle="-", linewidth=1, label="at the start")
    axes.set_yticks(rows, list(LABELS.values()))
    axes.margins(y=0.09)
    axes.invert_yaxis()
    axes.set(xlim=(-0.03, 0.75), xlabel="mass on the words that are not stored")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def tail_masses(start: str = "flat") -> dict[str, dict[str, float]]:
    """The student's mass outside of the top k at the end, direction -> convention -> mass."""
    return {
        direction: {tail: float(end(tail, direction, start)[TOP:].sum()) for tail in LABELS}
        for direction in DIRECTIONS
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="assets", help="the picture's folder (default: assets)")
    out = writable_folder(Path(parser.parse_args(argv).out))
    write_bytes(out / "tail_conventions.png", draw(tail_masses()).png())
    print(f"wrote {out / 'tail_conventions.png'}")


if __name__ == "__main__":
    run_script(main)
