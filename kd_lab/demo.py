"""``kd-lab demo``: a whole study in one command, from the teacher's training to the table.

    kd-lab demo                        # the toy language: every method, three seeds
    kd-lab demo --study smol           # a real pretrained teacher, fewer methods
    kd-lab demo --study capacity       # forward and reverse KL, by the size of the student
    kd-lab demo --study temperature    # ... by the temperature of the divergence
    kd-lab demo --study learning_rate  # ... by the learning rate, every method
    kd-lab demo --study mixing         # ... by the share of SFT that is mixed in
    kd-lab demo --study additions      # what ABKD, DistiLLM's later parts and others change
    kd-lab demo --study smol_temperature    # goes on from the smol study, in its folder

Stopped and started again it goes on where it was; see ``kd_lab/study/workers.py``.
"""

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kd_lab.files import write_text
from kd_lab.report import report
from kd_lab.report.runs import Row, read_rows
from kd_lab.smollm2 import fetch_smollm2
from kd_lab.study.additions import additions_findings, additions_results, additions_study
from kd_lab.study.capacity import CAPACITY
from kd_lab.study.findings import smol_findings, toy_findings
from kd_lab.study.learning_rate import LEARNING_RATE
from kd_lab.study.mixing import MIXING
from kd_lab.study.schedule import Task
from kd_lab.study.smol import smol_study
from kd_lab.study.sweep import Sweep
from kd_lab.study.temperature import SMOL_TEMPERATURE, TEMPERATURE
from kd_lab.study.toy import toy_study
from kd_lab.study.workers import run_study


class Kind(NamedTuple):
    """A study's folder, seeds, tasks and conclusions."""

    folder: str
    seeds: int
    tasks: Callable[[Path, int, bool], list[Task]]  # from folder, seeds and quick
    conclude: Callable[[Path, list[Task], int], Sequence[str]]  # writes; returns the findings


@dataclass
class DemoArguments:
    """The study, and its folder."""

    study: str = field(
        default="toy",
        metadata={
            "help": "toy, smol, capacity, temperature, mixing, learning_rate, additions or "
            "smol_temperature."
        },
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "The study's folder; a stopped study goes on there. Default: runs/..."},
    )
    seeds: int | None = field(
        default=None, metadata={"help": "Students of each method. Default: by the study."}
    )
    workers: int | None = field(
        default=None, metadata={"help": "Commands that run at the same time. Default: one a core."}
    )
    quick: bool = field(
        default=False,
        metadata={"help": "A few steps and examples, to see that everything works; no results."},
    )


ARGUMENTS = (DemoArguments,)


def run(args: DemoArguments) -> None:
    """Run the rest of a study, report on it, and print its findings.

    Raises:
        ValueError: an argument out of range, or a folder that holds other files.
        ChildProcessError: a run of the study failed; names its log.
    """
    if args.study not in STUDIES:
        raise ValueError(f"study must be one of {', '.join(STUDIES)}, not {args.study!r}")
    for name in ("seeds", "workers"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    study = STUDIES[args.study]
    if args.study.startswith("smol"):
        fetch_smollm2()
    folder, seeds = Path(args.output_dir or study.folder), args.seeds or study.seeds
    tasks = study.tasks(folder, seeds, args.quick)
    run_study(folder, tasks, args.workers)
    sentences = study.conclude(folder, tasks, seeds)
    print("What to look at:")
    for sentence in sentences:
        print(textwrap.fill(sentence, 98, initial_indent="- ", subsequent_indent="  "))


def _report_runs(
    findings: Callable[[Sequence[Row]], list[str]],
    folder: Path,
    tasks: list[Task],
    seeds: int,
) -> Sequence[str]:
    runs = [str(task.result.parent) for task in tasks if task.name.startswith("evaluate")]
    report.run(report.ReportArguments(runs, str(folder / "report")))
    print(f"\nThe report: {folder / 'report' / report.REPORT}")
    return findings(read_rows(runs))


def _report_sweep(sweep: Sweep, folder: Path, tasks: list[Task], seeds: int) -> Sequence[str]:
    results = sweep.results(folder, seeds)
    place, name = folder / "report", f"study_{sweep.name}"
    write_text(place / f"{name}.json", json.dumps(results, indent=1) + "\n")
    (place / f"{name}.png").write_bytes(sweep.draw(results))
    print(f"wrote {name}.json and {name}.png to {place}")
    return sweep.findings(results)


def _list_additions(folder: Path, tasks: list[Task], seeds: int) -> Sequence[str]:
    return additions_findings(additions_results(folder, seeds))


def _sweep(sweep: Sweep, folder: str, seeds: int) -> Kind:
    return Kind(folder, seeds, sweep.tasks, partial(_report_sweep, sweep))


STUDIES = {
    "toy": Kind("runs/demo", 3, toy_study, partial(_report_runs, toy_findings)),
    "smol": Kind("runs/demo-smol", 2, smol_study, partial(_report_runs, smol_findings)),
    "capacity": _sweep(CAPACITY, "runs/capacity", 6),
    "temperature": _sweep(TEMPERATURE, "runs/temperature", 10),
    "mixing": _sweep(MIXING, "runs/mixing", 6),
    "learning_rate": _sweep(LEARNING_RATE, "runs/learning_rate", 4),
    "additions": Kind("runs/additions", 5, additions_study, _list_additions),
    "smol_temperature": _sweep(SMOL_TEMPERATURE, "runs/demo-smol", 4),
}
