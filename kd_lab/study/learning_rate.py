"""Does the order of the methods hold at other learning rates?

The toy study trains every method at one learning rate. A claim at one rate is a claim about that
rate. Here each method trains at four rates, from one teacher and one start, over seeds. The table
then stands twice: at one rate for all, and at the best rate of each.

A method's best rate is the one with the highest balance, the harmonic mean of precision and
coverage, as a mean over seeds. It is chosen and reported on the same seeds, for all methods alike.
So the figures at the best rate are a little too good.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_lab.house_style import Figure, house_style, line_style
from kd_lab.methods import METHODS
from kd_lab.study.commands import evaluate, train
from kd_lab.study.schedule import Task
from kd_lab.study.sweep import Sweep, Values, over_seeds, paired, read_values, sweep_results
from kd_lab.study.toy import SECONDS, scoring, shared_tasks

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
COMMON = 3e-3  # that of the toy study
CONTROL = "sft"
PANELS = {"precision": "1 - precision", "coverage": "1 - coverage"}
LACKS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)  # the ticks


def learning_rate_study(folder: Path, seeds: int, quick: bool = False) -> list[Task]:
    """All tasks, each after those it needs; the arguments are those of ``toy_study``."""
    short = ["--max_steps", "4", "--num_conversations", "300"] if quick else []
    teacher = ["--teacher_model_name_or_path", str(folder / "teacher")]
    start = ["--model_name_or_path", str(folder / "start")]
    tasks = shared_tasks(folder, quick)
    for seed in range(1, seeds + 1):
        for method, seconds in SECONDS.items():
            own = ["--answers", str(folder / "teacher_answers")] if method == "seq_fkl" else []
            after = ["train teacher", "train start", *(["generate teacher_answers"] if own else [])]
            for rate in RATES:
                name = f"{_kind(method, rate)}-{seed}"
                tasks += [
                    train(
                        folder, name, "--config", f"tiny/{method}", "--learning_rate", f"{rate:g}",
                        "--seed", str(seed), *start, *teacher, *own, *short,
                        kind=method, after=after, seconds=seconds,
                    ),
                    evaluate(
                        folder, name, *scoring(quick), *teacher,
                        after=[f"train {name}", "evaluate teacher"], seconds=8,
                    ),
                ]  # fmt: skip
    return tasks


def learning_rate_results(folder: Path, seeds: int) -> dict[str, Any]:
    """All figures of the study, each with its values by seed and a 95% t-interval over seeds.

    Returns:
        those of ``sweep_results``, and
        - ``rates``, and ``common``, the toy study's rate.
        - ``methods``: method -> ``by_rate``, a list by ``rate`` of metric -> figure; ``best``, its
          best rate; ``at_best`` and ``at_common``, metric -> figure there; and ``gains_at_best``
          and ``gains_at_common``, metric -> the figure less that of SFT at *its* rate, by seed.
    """
    values = {
        method: {rate: _with_balance(read_values(folder, _kind(method, rate), seeds))
                 for rate in RATES}
        for method in SECONDS
    }  # fmt: skip
    best = {
        method: max(RATES, key=lambda rate: float(np.mean(of_rate[rate]["balance"])))
        for method, of_rate in values.items()
    }
    control = values[CONTROL]
    return {
        **sweep_results(folder, seeds),
        "rates": list(RATES),
        "common": COMMON,
        "methods": {
            method: {
                "by_rate": [{"rate": rate, **_figures(of_rate[rate])} for rate in RATES],
                "best": best[method],
                "at_best": _figures(of_rate[best[method]]),
                "at_common": _figures(of_rate[COMMON]),
                "gains_at_best": paired(of_rate[best[method]], control[best[CONTROL]]),
                "gains_at_common": paired(of_rate[COMMON], control[COMMON]),
            }
            for method, of_rate in values.items()
        },
    }


def learning_rate_findings(results: Mapping[str, Any]) -> list[str]:
    """Each method's best rate, and what it reaches there and at the common rate."""
    return [
        f"{METHODS[method].point.short}: best at {of_method['best']:g}, with "
        f"{_two(of_method['at_best'])}; at {results['common']:g} {_two(of_method['at_common'])}."
        for method, of_method in results["methods"].items()
    ]


def draw_learning_rate(results: Mapping[str, Any]) -> bytes:
    """The picture, as PNG: what each method lacks in precision and coverage, by learning rate."""
    rates = results["rates"]
    with house_style():
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        for axes, (metric, title) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
            for method, of_method in results["methods"].items():
                point = METHODS[method].point
                lacks = [1 - at_rate[metric]["mean"] for at_rate in of_method["by_rate"]]
                hollow = {"markerfacecolor": "white"} if point.policy_gradient else {}
                axes.plot(
                    rates, lacks, label=point.short, marker=point.look.marker, markersize=7,
                    **line_style(point.look.line), **hollow,
                )  # fmt: skip
            axes.set(xscale="log", yscale="log", title=title, xlabel="learning rate")
            axes.set_xticks(rates, [f"{rate:g}" for rate in rates], minor=False)
            low, high = axes.get_ylim()
            axes.set_yticks(LACKS, [f"{share:g}" for share in LACKS], minor=False)
            axes.minorticks_off()
            axes.set_ylim(low, high)  # ticks beyond what is drawn had widened it
        handles = axes.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3)
        return figure.png(dpi=150)


def _kind(method: str, rate: float) -> str:
    return f"{method}_{rate:g}"


def _with_balance(values: Values) -> Values:
    precision, coverage = np.array(values["precision"]), np.array(values["coverage"])
    balance = 2 * precision * coverage / (precision + coverage)
    return {**values, "balance": balance.tolist()}


def _figures(values: Values) -> dict[str, Any]:
    return {metric: over_seeds(x) for metric, x in values.items()}


def _two(figures: Mapping[str, Any]) -> str:
    return (
        f"precision {figures['precision']['mean']:.3f} and coverage "
        f"{figures['coverage']['mean']:.3f}"
    )


LEARNING_RATE = Sweep(
    "learning_rate",
    learning_rate_study,
    learning_rate_results,
    draw_learning_rate,
    learning_rate_findings,
)
