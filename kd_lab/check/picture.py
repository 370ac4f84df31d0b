"""A loss's gradient beside that of the loss which explains it, word by word."""

from pathlib import Path

import torch

from kd_lab.check.scale import gradients
from kd_lab.check.situations import STUDENTS, situations
from kd_lab.check.verdict import Verdict
from kd_lab.files import write_bytes
from kd_lab.house_style import Figure, house_style, line_style


@house_style()
def draw(verdict: Verdict, path: Path, title: str) -> None:
    """Write the picture of a loss that is no trainer's, as PNG: a panel for each student.

    The words are in the teacher's order, the likeliest first. Where nothing explains the loss, the
    nearest is drawn.

    Raises:
        ValueError: a trainer, whose gradient is no picture of words.
    """
    if verdict.loss is None:
        raise ValueError("picture: a trainer's gradient is of weights, and not of words")
    at = situations(verdict.seed)
    ours = gradients(verdict.loss, at)
    theirs = torch.zeros_like(ours)
    for candidate, coefficient in verdict.named.parts:
        theirs += coefficient * candidate.gradients(at)
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).flatten()
    for i, (axes, student) in enumerate(zip(panels, STUDENTS, strict=True)):
        order = at.teacher_logp[i].argsort(descending=True)
        words = range(1, len(order) + 1)
        axes.bar(
            words, ours[i][order].tolist(), color=line_style(None)["color"], label="its gradient"
        )
        axes.plot(
            words, theirs[i][order].tolist(), **line_style(0), marker="o", label=verdict.named.words
        )
        axes.set_title(f"student {student}")
        axes.axhline(0, color="black", linewidth=0.5)
    for axes in panels[2:]:
        axes.set_xlabel("words, the teacher's likeliest first")
    for axes in panels[::2]:
        axes.set_ylabel("gradient to the logit")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.suptitle(title)
    write_bytes(path, figure.png())
