"""The picture of planned memory: its bars add up to the planned peaks."""

import matplotlib.pyplot as plt
import pytest

from book.plan_figure import draw_memory
from kd_lab.cli import parse
from kd_lab.planning.planned_memory import plan_memory
from kd_lab.planning.planned_run import make_job


def planned(recipe, *words):
    return make_job(*parse("plan", ["--config", recipe, *words]))


def test_the_picture_adds_up_to_the_peak():
    jobs = {
        "one GPU": planned("qwen2.5/token_fkl"),
        "eight, ZeRO-3, MiniLLM": planned("qwen2.5/minillm", "--gpus", "8", "--zero_stage", "3"),
        "eight, DDP": planned("qwen2.5/token_fkl", "--gpus", "8"),
    }
    figure = draw_memory(jobs)
    [ax] = figure.axes
    totals = [sum(bars[row].get_width() for bars in ax.containers) for row in range(len(jobs))]
    assert totals == pytest.approx([plan_memory(job).peak / 1e9 for job in jobs.values()])
    assert [label.get_text() for label in ax.get_yticklabels()] == list(jobs)
    plt.close(figure)
