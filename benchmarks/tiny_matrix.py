"""Every distillation method once, on the toy language: from nothing to eleven students.

    python benchmarks/tiny_matrix.py                 # into runs/tiny/; what is there stays
    python benchmarks/tiny_matrix.py --json assets/results/tiny_matrix.json

It trains teacher and common start and stores answers first. Then it trains the methods, one on each
core. Each is the command that a reader would type: kd-lab train --config tiny/METHOD. It reports
the loss that the method's training reduces, as logged first and last. That is the divergence at its
own prefixes, or without a teacher the cross-entropy (nats per token).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from kd_lab.files import write_text
from toy.script import run_script

METHODS = (
    "sft", "token_fkl", "token_rkl", "token_akl", "token_jsd", "seq_fkl", "seqkd", "seq_rkl", "gkd",
    "minillm", "distillm",
)  # fmt: skip
FIRST = (("train", "teacher"), ("train", "start"), ("generate", "generate"))
RUNS = Path("runs/tiny")


def kd_lab(command: str, name: str) -> float:
    """Run one recipe to its end, its output in a log beside its folder; seconds.

    Raises:
        ValueError: it failed; names the log.
    """
    RUNS.mkdir(parents=True, exist_ok=True)
    log = RUNS / f"{name}.log"
    began = time.perf_counter()
    with log.open("w") as file:
        words = [sys.executable, "-m", "kd_lab", command, "--config", f"tiny/{name}"]
        done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise ValueError(f"tiny/{name} failed; what it said is in {log}")
    return time.perf_counter() - began


def learnt(method: str) -> dict[str, float | str]:
    """What a run's training was to reduce, as logged first and last."""
    lines = [json.loads(line) for line in (RUNS / method / "metrics.jsonl").open()]
    figure = "divergence" if any("divergence" in line for line in lines) else "cross_entropy"
    values = [line[figure] for line in lines if figure in line]
    return {"figure": figure, "first": values[0], "last": values[-1]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args(argv)
    waiting = [name for name in METHODS if not (RUNS / name / "complete").exists()]
    before = [
        (command, name)
        for command, name in FIRST
        if command == "generate" or not (RUNS / name / "complete").exists()
    ]
    began = time.perf_counter()
    seconds: dict[str, float] = {}
    with Progress() as progress:
        task = progress.add_task("tiny/", total=len(before) + len(waiting))
        for command, name in before:
            progress.update(task, description=f"tiny/{name}")
            seconds[name] = kd_lab(command, name)
            progress.advance(task)
        progress.update(task, description="the methods")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for name, took in zip(
                waiting, pool.map(lambda n: kd_lab("train", n), waiting), strict=True
            ):
                seconds[name] = took
                progress.advance(task)
    wall = time.perf_counter() - began
    results = {name: learnt(name) for name in METHODS}

    table = Table("method", "seconds", "figure", "first", "last")
    for name, result in results.items():
        took = f"{seconds[name]:.0f}" if name in seconds else "before"
        table.add_row(
            name, took, str(result["figure"]), f"{result['first']:.3f}", f"{result['last']:.3f}"
        )
    Console().print(table, f"{wall:.0f} s in all; the students are in {RUNS}/")
    if options.json is not None:
        if len(seconds) < len(FIRST) + len(METHODS):
            raise ValueError(f"some runs were there before: for timings, remove {RUNS}/ first")
        report = {
            "wall_seconds": wall,
            "cores": os.cpu_count(),
            "seconds": seconds,
            "methods": results,
        }
        write_text(options.json, json.dumps(report, indent=2) + "\n")
        print(f"wrote {options.json}")


if __name__ == "__main__":
    run_script(main)
