"""A sweep: forward and reverse KL at each of several settings, on the toy language, over seeds.

Runs of one seed share their start and their conversations, so we take a gap between two objectives
within each seed. Its interval is over seeds of all random draws of a run: the start's weights, the
conversations and their order, and the samples of its evaluation.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kd_lab.evaluation.evaluate import RESULT
from kd_lab.evaluation.intervals import t_interval
from kd_lab.house_style import Figure, house_style, line_style
from kd_lab.methods import METHODS
from kd_lab.runs.evaluations import read_sealed
from kd_lab.runs.versions import run_versions
from kd_lab.study.commands import evaluate, train
from kd_lab.study.schedule import Task
from kd_lab.study.toy import scoring

# Of evaluation.json.
METRICS = (
    "coverage", "precision", "hallucination", "grammar_forward_kl", "grammar_reverse_kl_inside",
    "forward_kl", "reverse_kl", "top1_agreement", "sequence_forward_kl_rao_blackwell",
    "sequence_reverse_kl_rao_blackwell",
)  # fmt: skip
# The methods of a sweep; SFT is its control.
COMPARED = {"sft": "SFT", "token_fkl": "forward KL", "token_rkl": "reverse KL"}
DIVERGENCES = {key: METHODS[key].point.divergence for key in ("token_fkl", "token_rkl")}

# A picture's panels: metric -> title. A share near 1 is drawn as one minus the share.
PANELS = {
    "coverage": "1 - coverage",
    "precision": "1 - precision",
    "forward_kl": "forward KL to teacher",
    "reverse_kl": "reverse KL to teacher",
}


class Sweep(NamedTuple):
    """A sweep: its name and the functions that run, read and draw it."""

    name: str  # its results are study_NAME.json and study_NAME.png
    tasks: Callable[[Path, int, bool], list[Task]]  # of folder, seeds and quick, as ``toy_study``
    results: Callable[[Path, int], dict[str, Any]]  # of a folder whose tasks are done
    draw: Callable[[Mapping[str, Any]], bytes]  # of results
    findings: Callable[[Mapping[str, Any]], list[str]]  # of results


Values = Mapping[str, Sequence[float]]  # metric -> its value of each seed
Figures = Mapping[str, Mapping[str, Any]]  # metric -> what ``over_seeds`` returns


def teacher_tasks(folder: Path, quick: bool) -> list[Task]:
    """Train and evaluate the teacher of a sweep, the run "teacher"."""
    short = ["--num_conversations", "300", "--max_steps", "4"] if quick else []
    return [
        train(folder, "teacher", "--config", "tiny/teacher", *short, seconds=35),
        evaluate(folder, "teacher", *scoring(quick), after=["train teacher"], seconds=8),
    ]


def sweep_results(folder: Path, seeds: int) -> dict[str, Any]:
    """The beginning of every sweep's results: ``seeds``, ``teacher`` and the settings."""
    teacher = _evaluation(folder, "teacher")
    return {
        "seeds": seeds,
        "teacher": {
            "parameters": teacher["speed"]["student"]["parameters"],
            **{m: teacher["metrics"][m]["mean"] for m in METRICS if m in teacher["metrics"]},
        },
        "test_set": teacher["test_set"],
        "versions": run_versions({}),
    }


def read_values(
    folder: Path, kind: str, seeds: int, metrics: Sequence[str] = METRICS
) -> dict[str, list[float]]:
    """Each metric of the runs KIND-1, KIND-2, ... of a study."""
    runs = [_evaluation(folder, f"{kind}-{seed}") for seed in range(1, seeds + 1)]
    return {metric: [run["metrics"][metric]["mean"] for run in runs] for metric in metrics}


def parameters_of(folder: Path, name: str) -> int:
    """The number of parameters of the run NAME's model."""
    return _evaluation(folder, name)["speed"]["student"]["parameters"]


def with_gaps(methods: Mapping[str, Values]) -> dict[str, Any]:
    """One setting of a sweep: ``methods``, ``gaps`` and ``gains``.

    ``gaps`` is reverse KL less forward KL, paired by seed. ``gains`` is each of them less SFT,
    where the setting has that control.
    """
    control = methods.get("sft")
    gains = {} if control is None else {key: paired(methods[key], control) for key in DIVERGENCES}
    return {
        "methods": {
            method: {metric: over_seeds(x) for metric, x in values.items()}
            for method, values in methods.items()
        },
        "gaps": paired(methods["token_rkl"], methods["token_fkl"]),
        **({"gains": gains} if gains else {}),
    }


def paired(values: Values, against: Values) -> dict[str, dict[str, Any]]:
    """Each metric's difference, values less against, within each seed.

    To the figures of ``over_seeds`` it adds ``above_zero``: in how many seeds it is more than 0.
    """
    differences = {metric: np.subtract(x, against[metric]) for metric, x in values.items()}
    return {
        metric: over_seeds(x) | {"above_zero": int((x > 0).sum())}
        for metric, x in differences.items()
    }


def over_seeds(values: ArrayLike) -> dict[str, Any]:
    """``values``, their ``mean`` and its 95% t-interval over seeds, ``low`` and ``high``.

    With one seed the interval is null.
    """
    x = np.asarray(values, float)
    low = high = None
    if len(x) > 1:
        low, high = t_interval(x)
    return {"values": x.tolist(), "mean": x.mean(), "low": low, "high": high}


def with_interval(difference: Mapping[str, Any]) -> str:
    """A difference with its interval: "+0.030 (+0.010 to +0.050)"."""
    if difference["low"] is None:
        return f"{difference['mean']:+.3f} (one seed)"
    return f"{difference['mean']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"


def draw_sweep(
    settings: Sequence[Mapping[str, Figures]],
    ticks: Sequence[str],
    label: str,
    level: Mapping[str, Any],
    panels: Mapping[str, str] = PANELS,
    of_level: str = "teacher",
) -> bytes:
    """A picture, as PNG: four metrics at each setting, a line for each method, a dot for each seed.

    Args:
        settings: the figures by method of each setting in turn.
        ticks: the settings' names under the axis.
        label: of that axis.
        level: metric -> the height of a horizontal line, for some metrics.
        panels: metric -> title; a title "1 - ..." draws one minus the metric.
        of_level: the legend of the horizontal lines.
    """

    methods = [method for method in COMPARED if method in settings[0]]
    places = np.arange(len(settings))
    with house_style():
        figure = Figure(figsize=(6, 5), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True)
        for axis, (metric, title) in zip(axes.flat, panels.items(), strict=True):
            lacks = title.startswith("1 - ")
            for offset, method in enumerate(methods):
                style = line_style(METHODS[method].point.look.line)
                x = places + (offset - (len(methods) - 1) / 2) * 0.12
                values = np.array([figures[method][metric]["values"] for figures in settings])
                values = 1 - values if lacks else values  # [setting, seed]
                axis.plot(x, values.mean(1), label=COMPARED[method], marker="o", **style)
                axis.plot(
                    x, values, linestyle="", marker=".", markersize=5, color=style["color"],
                    alpha=0.5,
                )  # fmt: skip
            if metric in level:
                at = 1 - level[metric] if lacks else level[metric]
                axis.axhline(at, color="black", linestyle=":", linewidth=1.2, label=of_level)
            low, high = axis.dataLim.intervaly
            if high > 3 * low > 0:  # no less than that has decades to show
                axis.set_yscale("log")
            axis.set_title(title)
            axis.set_xticks(places, ticks)
        for axis in axes[1]:
            axis.set_xlabel(label)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return figure.png(dpi=150)


def _evaluation(folder: Path, name: str) -> dict[str, Any]:
    return read_sealed(folder / name / RESULT)
