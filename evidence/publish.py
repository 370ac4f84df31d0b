"""Copy a finished study's own results to where README, CLAIMS.md and site read them.

    python -m evidence publish toy runs/demo               # to assets/results/toy_study/
    python -m evidence publish capacity runs/capacity      # to assets/results/ and assets/
    python -m evidence publish smol_token_fkl runs/smol/token_fkl    # the metrics of one run

It replaces each file whole, and only if the study is whole: no file is missing, no seed, and no
step that ``--quick`` leaves out.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from kd_lab.files import read_mapping, write_bytes

ASSETS = Path("assets")
OF_A_TRAINING = "smol_token_fkl"  # what is no study


class Published(NamedTuple):
    """The files of a study that this command copies."""

    command: str  # makes them
    files: Mapping[str, str]  # a file in the folder of runs -> its place in assets/


def _report(study: str, *files: str) -> Published:
    """A study whose whole report is copied."""
    return Published(
        f"kd-lab demo --study {study}",
        {file: f"results/{study}_study/{Path(file).name}" for file in files},
    )


def _sweep(study: str) -> Published:
    """A study whose results are one JSON and one picture."""
    results, picture = f"study_{study}.json", f"study_{study}.png"
    return Published(
        f"kd-lab demo --study {study}",
        {f"report/{results}": f"results/{results}", f"report/{picture}": picture},
    )


PUBLISHED = {
    "toy": _report(
        "toy", "report/report.md", "report/table.csv", "report/differences.png",
        "report/training_curves.png", "report/coverage_precision.png", "took.json",
    ),
    "smol": _report(
        "smol", "report/report.md", "report/table.csv", "report/differences.png",
        "report/training_curves.png",
    ),
    "capacity": _sweep("capacity"),
    "temperature": _sweep("temperature"),
    "mixing": _sweep("mixing"),
    "learning_rate": _sweep("learning_rate"),
    "smol_temperature": _sweep("smol_temperature"),
    "smol_token_fkl": Published(
        "kd-lab train --config smol/token_fkl", {"metrics.jsonl": "results/smol_token_fkl.jsonl"}
    ),
}  # fmt: skip


def publish(name: str, runs: Path) -> list[Path]:
    """Copy the files of a study.

    Args:
        name: in ``PUBLISHED``.
        runs: the study's folder.
    Returns:
        where the copies are.
    Raises:
        ValueError: a file is missing, the study is not whole, or its report is of fewer seeds;
            nothing is copied.
    """
    published = PUBLISHED[name]
    again = f"run `{published.command} --output_dir {quote(str(runs))}` to its end first"
    if missing := [file for file in published.files if not (runs / file).is_file()]:
        raise ValueError(f"{runs} holds no {missing[0]}: {again}")
    if name == OF_A_TRAINING:
        _check_training(runs, again)
    else:
        _check_study(name, runs, again)
    copies = []
    for file, place in published.files.items():
        copy = ASSETS / place
        write_bytes(copy, (runs / file).read_bytes())
        copies.append(copy)
    return copies


def _check_training(runs: Path, again: str) -> None:
    """Refuse a training that was stopped, or had fewer steps than its recipe."""
    from kd_lab.next_step import steps
    from kd_lab.runs.run_files import read_metrics

    [recipe] = (step for step in steps() if step.name == OF_A_TRAINING.replace("_", "/", 1))
    due, last = recipe.settings["max_steps"], (read_metrics(runs) or [{"step": 0}])[-1]
    if "train_runtime" not in last or last["step"] < due:
        raise ValueError(f"{runs} holds {last['step']} steps of {due}: {again}")


def _check_study(name: str, runs: Path, again: str) -> None:
    """Refuse a study that is not whole, and a report of fewer seeds than the study has."""
    from evidence.study_folder import check_study
    from kd_lab.demo import STUDIES

    check_study(name, runs)
    for file in PUBLISHED[name].files:
        path, seeds = runs / file, STUDIES[name].seeds
        if Path(file).name == f"study_{name}.json":
            seeds = read_mapping(path, again).get("seeds", 0)
        elif path.suffix == ".csv":
            rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
            seeds = max((int(row["seeds"]) for row in rows), default=0)
        if seeds < STUDIES[name].seeds:
            raise ValueError(f"{path} is of {seeds} seeds, not {STUDIES[name].seeds}: {again}")
