"""Copy a finished study's own results to where README, CLAIMS.md and site read them.

    python -m evidence publish toy runs/demo               # to assets/results/toy_study/
    python -m evidence publish capacity runs/capacity      # to assets/results/ and assets/
    python -m evidence publish smol_token_fkl runs/smol/token_fkl    # the metrics of one run

It replaces each file whole, and only if no file of the study is missing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kd_lab.files import write_bytes

ASSETS = Path("assets")


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
        ValueError: a file is missing; nothing is copied.
    """
    published = PUBLISHED[name]
    if missing := [file for file in published.files if not (runs / file).is_file()]:
        raise ValueError(
            f"{runs} holds no {missing[0]}: run `{published.command}` to its end first"
        )
    copies = []
    for file, place in published.files.items():
        copy = ASSETS / place
        write_bytes(copy, (runs / file).read_bytes())
        copies.append(copy)
    return copies
