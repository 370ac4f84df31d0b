"""Does temperature change which of forward and reverse KL is ahead?

The demo's student trains from one start a seed, by token-level forward and reverse KL. Both
distributions have temperature T, and the loss is times T². Luong and Chen 2026 (arXiv 2606.00306)
report from instruction-following benchmarks: reverse KL is ahead at T = 1, forward KL at higher
temperatures. They add that temperature mainly rescales the gradient of reverse KL. The winner
depends on the metric. Here these are both KLs to the teacher at T = 1, and precision and coverage
of the student's answers.

On SmolLM2 the students of the smol study serve as T = 1. Students at T = 2 train on the same stored
answers for as many steps, so this study continues in the smol study's folder.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kd_lab.runs.versions import run_versions
from kd_lab.study.commands import evaluate, train
from kd_lab.study.schedule import Task
from kd_lab.study.smol import kind_at, smol_study
from kd_lab.study.sweep import (
    COMPARED,
    DIVERGENCES,
    METRICS,
    PANELS,
    Figures,
    Sweep,
    draw_sweep,
    over_seeds,
    paired,
    read_values,
    sweep_results,
    teacher_tasks,
    with_gaps,
    with_interval,
)
from kd_lab.study.toy import SECONDS, scoring

TEMPERATURES = (1, 2, 4)
SMOL_TEMPERATURES = (1, 2)
SMOL_METRICS = (
    "forward_kl", "reverse_kl", "top1_agreement", "student_entropy", "rougeL", "distinct2",
    "sequence_forward_kl_rao_blackwell", "sequence_reverse_kl_rao_blackwell",
)  # fmt: skip
SMOL_PANELS = {
    "rougeL": "ROUGE-L",
    "top1_agreement": "same likeliest token",
    "forward_kl": "forward KL to teacher",
    "reverse_kl": "reverse KL to teacher",
}


def temperature_study(folder: Path, seeds: int, quick: bool = False) -> list[Task]:
    """All tasks, each after those it needs; the arguments are those of ``toy_study``."""
    short = ["--num_conversations", "300", "--max_steps", "4"] if quick else []
    teacher = ["--teacher_model_name_or_path", str(folder / "teacher")]
    tasks = teacher_tasks(folder, quick)

    def add(kind: str, seed: int, *words: str, after: Sequence[str] = (), seconds: float) -> None:
        name = f"{kind}-{seed}"
        scored = [f"train {name}", "evaluate teacher"]
        tasks.append(
            train(
                folder, name, *words, "--seed", str(seed), *short,
                kind=kind, after=after, seconds=seconds,
            )
        )  # fmt: skip
        tasks.append(evaluate(folder, name, *scoring(quick), *teacher, after=scored, seconds=8))

    for seed in range(1, seeds + 1):
        add("start", seed, "--config", "tiny/start", seconds=10)
        for method in DIVERGENCES:
            for temperature in TEMPERATURES:
                add(
                    kind_at(method, temperature), seed, "--config", f"tiny/{method}",
                    "--model_name_or_path", str(folder / f"start-{seed}"), *teacher,
                    "--distil_temperature", str(temperature), seconds=SECONDS[method],
                    after=[f"train start-{seed}", "train teacher"],
                )  # fmt: skip
    return tasks


def smol_temperature_study(folder: Path, seeds: int, quick: bool = False) -> list[Task]:
    """The same on the real model, in a ``smol_study``'s folder, finished or not."""
    tasks = [
        task
        for temperature in SMOL_TEMPERATURES
        for task in smol_study(folder, seeds, quick, list(DIVERGENCES), temperature)
    ]
    return list({task.name: task for task in tasks}.values())


def temperature_results(folder: Path, seeds: int) -> dict[str, Any]:
    """All figures of the sweep, each with its values by seed and a 95% interval over seeds.

    Returns:
        those of ``sweep_results``, and
        - ``start``: metric -> figure.
        - ``temperatures``: a list by ``temperature``; each has ``methods`` and ``gaps`` (see
          ``with_gaps``). ``changes`` is method -> metric -> the change from T = 1, paired by seed.
    """
    start = read_values(folder, "start", seeds)
    return {
        **sweep_results(folder, seeds),
        "start": {metric: over_seeds(values) for metric, values in start.items()},
        "temperatures": _temperatures(folder, seeds, TEMPERATURES, METRICS),
    }


def smol_temperature_results(folder: Path, seeds: int) -> dict[str, Any]:
    """The same on the real model: ``seeds``, ``temperatures`` and ``versions``."""
    return {
        "seeds": seeds,
        "teacher": {},
        "temperatures": _temperatures(folder, seeds, SMOL_TEMPERATURES, SMOL_METRICS),
        "versions": run_versions({}),
    }


def temperature_findings(
    results: Mapping[str, Any], metrics: Mapping[str, str] = PANELS
) -> list[str]:
    """Who is ahead at each temperature, and the effect of temperature on each."""
    points = results["temperatures"]
    names = {metric: title.removeprefix("1 - ") for metric, title in metrics.items()}

    def listed(metric: str, figures: Mapping[int, Figures]) -> str:
        parts = []
        for temperature, figure in figures.items():
            parts.append(
                f"{with_interval(figure[metric])} at T = {temperature} (above 0 in "
                f"{figure[metric]['above_zero']} of {results['seeds']} seeds)"
            )
        return ", ".join(parts)

    gaps = {point["temperature"]: point["gaps"] for point in points}
    sentences = [
        f"{title[0].upper()}{title[1:]}, reverse KL less forward KL: {listed(metric, gaps)}."
        for metric, title in names.items()
    ]
    for method in DIVERGENCES:
        changes = {point["temperature"]: point["changes"][method] for point in points[1:]}
        moved = (f"{names[metric]} by {listed(metric, changes)}" for metric in list(names)[:2])
        sentences.append(f"Temperature moves {COMPARED[method]}'s {'; its '.join(moved)}.")
    sentences[-1] += " (95% intervals over seeds, paired by seed.)"
    return sentences


def draw_temperature(results: Mapping[str, Any], panels: Mapping[str, str] = PANELS) -> bytes:
    """The picture, as PNG: each divergence's figures by temperature."""
    points = results["temperatures"]
    return draw_sweep(
        [point["methods"] for point in points],
        [str(point["temperature"]) for point in points],
        "temperature",
        results["teacher"],
        panels,
    )


def _temperatures(
    folder: Path, seeds: int, temperatures: Sequence[int], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    values = {
        temperature: {
            method: read_values(folder, kind_at(method, temperature), seeds, metrics)
            for method in DIVERGENCES
        }
        for temperature in temperatures
    }
    return [
        {
            "temperature": temperature,
            **with_gaps(of_methods),
            "changes": {
                method: paired(of_methods[method], values[1][method]) for method in DIVERGENCES
            },
        }
        for temperature, of_methods in values.items()
    ]


TEMPERATURE = Sweep(
    "temperature", temperature_study, temperature_results, draw_temperature, temperature_findings
)
SMOL_TEMPERATURE = Sweep(
    "smol_temperature",
    smol_temperature_study,
    smol_temperature_results,
    partial(draw_temperature, panels=SMOL_PANELS),
    partial(temperature_findings, metrics=SMOL_PANELS),
)
