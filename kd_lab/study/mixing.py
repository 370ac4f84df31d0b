"""Does mixing SFT into a divergence make training steadier?

The loss is alpha · divergence + (1 - alpha) · cross-entropy. The post holds that a share of
cross-entropy stabilises it. We train with alpha = 1, 0.8, 0.5 and 0.2, for forward and for reverse
KL, from two starts: the demo's SFT student, and random weights. From random weights we use the SFT
recipe with only the loss changed, so the alpha = 0 control is the SFT student itself.

We measure steadiness in four ways. How far do runs of different seeds end apart? How many never
learn the language (fewer than half of their answers are correct)? How far does the divergence rise
from one log (the mean of ten steps) to the next? How large does a gradient get, against the run's
median? The last two come from metrics.jsonl. They are ratios, so that losses of different size can
be compared.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_lab.runs.run_files import read_metrics
from kd_lab.study.commands import evaluate, train
from kd_lab.study.schedule import Task
from kd_lab.study.sweep import (
    COMPARED,
    DIVERGENCES,
    Sweep,
    Values,
    draw_sweep,
    over_seeds,
    paired,
    read_values,
    sweep_results,
    teacher_tasks,
    with_gaps,
)
from kd_lab.study.toy import SECONDS, scoring

ALPHAS = (1.0, 0.8, 0.5, 0.2)
STARTS = {"start": "the SFT start", "random": "random weights"}
LEARNT = 0.5  # precision from which a student has learnt the language
PANELS = {
    "start_coverage": "1 - coverage, SFT start",
    "start_precision": "1 - precision, SFT start",
    "random_coverage": "1 - coverage, random start",
    "random_precision": "1 - precision, random start",
}


def mixing_study(folder: Path, seeds: int, quick: bool = False) -> list[Task]:
    """All tasks, each after those it needs; the arguments are those of ``toy_study``."""
    short = ["--num_conversations", "300", "--max_steps", "4", "--logging_steps", "1"]
    short = short if quick else []
    teacher = ["--teacher_model_name_or_path", str(folder / "teacher")]
    tasks = teacher_tasks(folder, quick)

    def add(kind: str, seed: int, *words: str, after: Sequence[str] = (), seconds: float) -> None:
        name = f"{kind}-{seed}"
        scored = [f"train {name}", "evaluate teacher"]
        tasks.append(
            train(
                folder, name, *words, "--seed", str(seed), *short,
                kind=kind.partition("_")[0], after=after, seconds=seconds,
            )
        )  # fmt: skip
        tasks.append(evaluate(folder, name, *scoring(quick), *teacher, after=scored, seconds=8))

    for seed in range(1, seeds + 1):
        start = ["--model_name_or_path", str(folder / f"random_sft-{seed}")]
        add("random_sft", seed, "--config", "tiny/start", seconds=12)
        add(
            "start_sft", seed, "--config", "tiny/sft", *start, seconds=SECONDS["sft"],
            after=[f"train random_sft-{seed}"],
        )  # fmt: skip
        for method, divergence in DIVERGENCES.items():
            for alpha in ALPHAS:
                mix = [*teacher, "--alpha", str(alpha)]
                add(
                    _kind("start", method, alpha), seed, "--config", f"tiny/{method}", *start, *mix,
                    after=["train teacher", f"train random_sft-{seed}"], seconds=SECONDS[method],
                )  # fmt: skip
                add(
                    _kind("random", method, alpha), seed, "--config", "tiny/start", *mix,
                    "--divergence", divergence, after=["train teacher"], seconds=20,
                )  # fmt: skip
    return tasks


def mixing_results(folder: Path, seeds: int) -> dict[str, Any]:
    """All figures of the sweep, each with its values by seed and a 95% interval over seeds.

    The metrics are those of all sweeps and two more. ``divergence_rise`` is the largest ratio of
    one log's divergence to the log before. ``gradient_peak`` is the largest norm over the median
    norm.

    Returns:
        those of ``sweep_results``, and ``starts``: for "start" and "random"
        - ``sft``: the control, metric -> figure.
        - ``mixes``: a list by ``alpha``; each has ``methods`` and ``gaps`` (see ``with_gaps``).
          ``changes`` is method -> metric -> the change from alpha = 1, paired by seed. ``spread``
          is method -> metric -> standard deviation between seeds. ``learnt`` is method -> how many
          seeds learnt the language.
    """

    def mixes(start: str) -> list[dict[str, Any]]:
        values = {
            alpha: {
                method: read_values(folder, (kind := _kind(start, method, alpha)), seeds)
                | _steadiness(folder, kind, seeds)
                for method in DIVERGENCES
            }
            for alpha in ALPHAS
        }
        return [mix(alpha, of_alpha, values[1.0]) for alpha, of_alpha in values.items()]

    def mix(alpha: float, values: Mapping[str, Values], alone: Mapping[str, Values]) -> dict:
        return {
            "alpha": alpha,
            **with_gaps(values),
            "changes": {method: paired(values[method], alone[method]) for method in DIVERGENCES},
            "spread": {
                method: {
                    metric: float(np.std(x, ddof=1)) if seeds > 1 else None
                    for metric, x in of_method.items()
                }
                for method, of_method in values.items()
            },
            "learnt": {
                method: sum(x >= LEARNT for x in of_method["precision"])
                for method, of_method in values.items()
            },
        }

    def control(start: str) -> dict[str, Any]:
        values = read_values(folder, f"{start}_sft", seeds)
        return {metric: over_seeds(x) for metric, x in values.items()}

    return {
        **sweep_results(folder, seeds),
        "starts": {start: {"sft": control(start), "mixes": mixes(start)} for start in STARTS},
    }


def mixing_findings(results: Mapping[str, Any]) -> list[str]:
    """Which runs learnt, how far seeds lie apart, and how steady the loss was."""
    sentences = []
    for start, start_words in STARTS.items():
        mixes, sft = (results["starts"][start][key] for key in ("mixes", "sft"))
        learnt = _listed(mixes, lambda mix, method: f"{mix['learnt'][method]}")
        spread = _listed(mixes, lambda mix, method: _two_digits(mix["spread"][method]["coverage"]))
        coverage, precision = (_means(mixes, name, ".3f") for name in ("coverage", "precision"))
        rise, peak = _means(mixes, "divergence_rise", ".2f"), _means(mixes, "gradient_peak", ".1f")
        sentences += [
            f"From {start_words}, alpha {', '.join(f'{a:g}' for a in ALPHAS)}: "
            f"of {results['seeds']} students learn the language: {learnt}.",
            f"Their coverage: {coverage} (SFT alone {sft['coverage']['mean']:.3f}); precision: "
            f"{precision} (SFT alone {sft['precision']['mean']:.3f}).",
            f"Standard deviation of coverage between seeds: {spread}.",
            f"The largest rise of the divergence from one log to the next, as a ratio: {rise}; the "
            f"largest gradient over the median one: {peak}.",
        ]
    return sentences


def draw_mixing(results: Mapping[str, Any]) -> bytes:
    """The picture, as PNG: coverage and precision by alpha, from both starts; grey is SFT alone."""
    starts = results["starts"]
    panels = {panel: panel.split("_") for panel in PANELS}
    settings = [
        {
            method: {
                panel: starts[start]["mixes"][i]["methods"][method][metric]
                for panel, (start, metric) in panels.items()
            }
            for method in DIVERGENCES
        }
        for i in range(len(ALPHAS))
    ]
    sft = {panel: starts[start]["sft"][metric]["mean"] for panel, (start, metric) in panels.items()}
    return draw_sweep(
        settings,
        [f"{alpha:g}" for alpha in ALPHAS],
        "share of the divergence",
        sft,
        panels=PANELS,
        of_level="SFT alone",
    )


def _kind(start: str, method: str, alpha: float) -> str:
    return f"{start}_{method}_{alpha:g}"


def _listed(
    mixes: Sequence[Mapping[str, Any]], figure: Callable[[Mapping[str, Any], str], str]
) -> str:
    return "; ".join(
        f"{COMPARED[method]} {', '.join(figure(mix, method) for mix in mixes)}"
        for method in DIVERGENCES
    )


def _means(mixes: Sequence[Mapping[str, Any]], metric: str, form: str) -> str:
    return _listed(mixes, lambda mix, method: format(mix["methods"][method][metric]["mean"], form))


def _two_digits(spread: float | None) -> str:
    return "-" if spread is None else f"{spread:.3f}"


def _steadiness(folder: Path, kind: str, seeds: int) -> dict[str, list[float]]:
    """``divergence_rise`` and ``gradient_peak`` of the runs KIND-1, KIND-2, ..."""
    rises, peaks = [], []
    for seed in range(1, seeds + 1):
        log = [line for line in read_metrics(folder / f"{kind}-{seed}") if "grad_norm" in line]
        divergence = np.array([line["divergence"] for line in log])
        norms = np.array([line["grad_norm"] for line in log])
        rises.append(float((divergence[1:] / divergence[:-1]).max(initial=1)))
        peaks.append(float(norms.max() / np.median(norms)))
    return {"divergence_rise": rises, "gradient_peak": peaks}


MIXING = Sweep("mixing", mixing_study, mixing_results, draw_mixing, mixing_findings)
