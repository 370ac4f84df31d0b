"""The experiment of one lesson: students that differ in their loss alone, and what they become.

Students, teacher and measures are those of ``evidence.field.students``: small tables on the toy
language, so that precision and coverage are exact sums. Every arm has the same starts, the same
questions and answers, and as many steps: only its loss is its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import ttest_rel
from torch import Tensor

from evidence.field.students import training
from evidence.field.students.losses import StudentLoss
from kd_lab.divergences import get_divergence
from kd_lab.evaluation.intervals import holm
from kd_lab.house_style import GREY, Figure, house_style, line_style
from kd_lab.loss.plain import plain_distillation_loss
from kd_lab.study.sweep import over_seeds, with_interval
from kd_lab.vocabulary import IGNORED

MEASURES = ("precision", "coverage")
Measured = Mapping[str, NDArray[np.float64]]  # measure -> [seeds]


@dataclass(frozen=True)
class Arm:
    """One loss of the lesson: α·T²·D(p, q) at temperature T, and 1 - α of cross-entropy.

    Attributes:
        divergence: a name of ``kd_lab.divergences``.
        alpha: the divergence's share; 0 is plain SFT.
        temperature: on both models' logits, inside the divergence only.
    """

    divergence: str
    alpha: float
    temperature: float = 1.0


def loss_at_answers(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    divergence: str,
    alpha: float,
    temperature: float,
) -> Tensor:
    """The loss of ``kd_lab.loss.plain``, where labels are shifted already: a scalar.

    Args:
        student, teacher: logits [B, T, V]; position t predicts ``labels[:, t]``.
        labels: [B, T], -100 behind the end of an answer.
    """
    # The definition shifts by itself: it gets one position more, whose prediction nobody asks for.
    student, teacher = F.pad(student, (0, 0, 0, 1)), F.pad(teacher, (0, 0, 0, 1))
    shifted, compared = F.pad(labels, (1, 0), value=IGNORED), get_divergence(divergence)
    loss, _, _ = plain_distillation_loss(
        student, teacher, shifted, compared, alpha=alpha, temperature=temperature
    )
    return loss


def start() -> Measured:
    """What the students are before any arm: SFT has brought them a part of the way."""
    return _measured(training.measure(training.starts().distributions()))


def train_arm(arm: Arm, rate: float = training.SLOW) -> Measured:
    """What the students become under one loss, by seed.

    Args:
        arm: the loss.
        rate: Adam's learning rate at the first step; it falls to nothing in a line.
    """
    training.one_thread()
    loss = StudentLoss(
        key=str(arm),
        what=arm.divergence,
        who="",
        control="",
        function=loss_at_answers,
        settings=vars(arm),
        form="logits",
        prefixes="dataset",
    )
    return _measured(training.measure(training.train(loss, rate).distributions()))


def _measured(of_students: Mapping[str, Sequence[float]]) -> Measured:
    return {name: np.array(values) for name, values in of_students.items()}


def less(arm: Measured, control: Measured, measure: str) -> dict[str, Any]:
    """The mean of arm - control, seed by seed, with its 95% t-interval (``over_seeds``)."""
    return over_seeds(arm[measure] - control[measure])


def p_values(arms: Mapping[str, Measured], control: Measured) -> dict[tuple[str, str], float]:
    """Of every arm and measure against the control: paired t-tests, after Holm's adjustment."""
    tests = {
        (name, measure): float(ttest_rel(arm[measure], control[measure]).pvalue)
        for name, arm in arms.items()
        for measure in MEASURES
    }
    return dict(zip(tests, holm(list(tests.values())), strict=True))


def table(arms: Mapping[str, Measured], control: Measured) -> str:
    """Markdown: a line an arm, its means, and what it is more or less than the control."""
    lines = [
        "| arm | precision | coverage | precision, less control | coverage, less control |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, arm in arms.items():
        means = [f"{arm[measure].mean():.3f}" for measure in MEASURES]
        differences = [with_interval(less(arm, control, measure)) for measure in MEASURES]
        if arm is control:
            differences = ["", ""]
        lines.append(f"| {name} | {' | '.join([*means, *differences])} |")
    return "\n".join(lines)


COLOURS = {
    "SFT": GREY,
    "forward KL": line_style(0)["color"],
    "reverse KL": line_style(1)["color"],
}
MARKERS = "osD^vP*X"


def draw_plane(arms: Mapping[str, Measured], paths: Sequence[Sequence[str]]) -> Figure:
    """Coverage and precision: a small mark a seed, a large one the mean over seeds.

    Args:
        arms: at most eight, each by a name that begins with one of ``COLOURS``.
        paths: names of arms; a line joins the means of each path.
    """
    with house_style():
        figure = Figure(figsize=(5.8, 4.8), layout="constrained")
        ax = figure.subplots()
        for path in paths:
            means = [[arms[name][measure].mean() for name in path] for measure in MEASURES]
            ax.plot(means[1], means[0], "-", color=_colour(path[-1]), linewidth=1)
        for (name, arm), marker in zip(arms.items(), MARKERS, strict=False):
            look: dict[str, Any] = {"color": _colour(name), "marker": marker}
            ax.scatter(arm["coverage"], arm["precision"], s=22, alpha=0.6, linewidth=0, **look)
            mean = arm["coverage"].mean(), arm["precision"].mean()
            ax.scatter(*mean, s=95, edgecolor="black", zorder=3, label=name, **look)
        ax.set(xlabel="coverage", ylabel="precision")
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def _colour(name: str) -> str:
    return next(colour for kind, colour in COLOURS.items() if name.startswith(kind))
