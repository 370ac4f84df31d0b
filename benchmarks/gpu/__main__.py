"""Run the checks, show a table, write a file; the exit code is 1 if a check has failed."""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import benchmarks.gpu
from benchmarks.gpu import commands
from benchmarks.gpu.checks import BY_NAME, CHECKS, Check, groups
from benchmarks.gpu.figure import FAILED, NEEDS_GPU, PASSED, Figure, verdict_of
from benchmarks.gpu.page import PAGE, RESULTS, page, read_results
from kd_lab.files import write_text
from toy.script import run_script

ROOT = Path(__file__).parents[2]
ON_CPU = Path("build/gpu-cpu.json")
CPU_LIMIT_SECONDS = 1200  # DeepSpeed may compile first
COLOURS = {PASSED: "green", FAILED: "bold red"}


@dataclass(frozen=True)
class Result:
    """What a check came to."""

    check: Check
    figures: Sequence[Figure]
    seconds: float
    error: str = ""

    @property
    def verdict(self) -> str:
        return FAILED if self.error else verdict_of(self.figures)


class Running:
    """A check in its process, which has a time limit."""

    def __init__(self, check: Check, device: str) -> None:
        self.check, self.start = check, time.perf_counter()
        self.limit = check.limit_seconds if device == "cuda" else CPU_LIMIT_SECONDS
        self.folder = tempfile.TemporaryDirectory()
        self.out = Path(self.folder.name, "figures.json")
        words = [sys.executable, "-m", "benchmarks.gpu.worker", check.name, device, str(self.out)]
        self.process = Process(words)

    def result(self) -> Result:
        """Its figures when it has ended; those before an error count too."""
        error = self.process.ended(self.limit - (time.perf_counter() - self.start))
        found = json.loads(self.out.read_text()) if self.out.exists() else []
        figures = [Figure(**figure) for figure in found]
        return Result(self.check, figures, time.perf_counter() - self.start, error)

    def stop(self) -> None:
        self.process.stop()
        self.folder.cleanup()


class Process:
    """A command from the project's root, with all that it starts."""

    def __init__(self, words: Sequence[str]) -> None:
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            words, cwd=ROOT, env=commands.with_this_checkout(),
            stdout=subprocess.DEVNULL, stderr=self.said, start_new_session=True,
        )  # fmt: skip

    def ended(self, limit_seconds: float) -> str:
        """The end of what it wrote to stderr if it failed; empty if it did not."""
        try:
            self.process.wait(max(0, limit_seconds))
        except subprocess.TimeoutExpired:
            self.stop()
            return f"stopped after {limit_seconds:.0f} s, its limit"
        self.said.seek(0)
        failed = self.process.returncode
        return (self.said.read().strip()[-3000:] or "no message") if failed else ""

    def stop(self) -> None:
        """End it if it runs: a launcher is asked, and ends its own."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(self.process.pid, sign)
                    self.process.wait(10)


def run_checks(checks: Sequence[Check], device: str) -> Iterator[Result]:
    """Checks side by side, their results in the order of the list."""
    if device == "cpu":
        yield from (Result(check, [], 0.0) for check in checks if not check.on_a_cpu)
        checks = [check for check in checks if check.on_a_cpu]
    running = [Running(check, device) for check in checks]
    try:
        for one in running:
            yield one.result()
    finally:
        for one in running:
            one.stop()


def show(results: Sequence[Result], console: Console) -> None:
    """A line for each figure, under its check."""
    table = Table(title="make gpu", title_justify="left")
    for column in ("check", "figure", "value", "expected", "verdict"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for result in results:
        verdict, colour = result.verdict, COLOURS.get(result.verdict, "")
        head = f"{result.check.name} ({result.seconds:.0f} s)"
        table.add_row(
            head, result.check.shows, "", "", f"[{colour}]{verdict}[/]" if colour else verdict
        )
        if result.error:
            table.add_row("", "[red]error[/]", "", "", escape(result.error.splitlines()[-1]))
        for figure in result.figures:
            value = "" if figure.value is None else f"{figure.value:.4g} {figure.unit}".strip()
            colour = COLOURS.get(figure.verdict, "")
            said = f"[{colour}]{figure.verdict}[/]" if colour else figure.verdict
            table.add_row("", f"  {figure.name}", value, figure.expected, said)
        table.add_section()
    console.print(table)


def measured_on(device: str) -> dict[str, Any]:
    """The cards, and the versions of all code."""
    import torch

    from kd_lab.machine.nvidia import nvidia_gpus
    from kd_lab.runs.versions import run_versions

    gpus = nvidia_gpus() if device == "cuda" else []
    return {
        "gpus": [gpu._asdict() for gpu in gpus],
        "cuda": torch.version.cuda,
        "versions": run_versions({}),
    }


def entry(result: Result, where: dict[str, Any]) -> dict[str, Any]:
    """All numbers of a check, and what they were measured on."""
    return {
        "shows": result.check.shows,
        "verdict": result.verdict,
        "seconds": round(result.seconds, 1),
        **({"error": result.error} if result.error else {}),
        "figures": [
            {**dataclasses.asdict(figure), "verdict": figure.verdict} for figure in result.figures
        ],
        **where,
    }


def keep(results: Sequence[Result], device: str, where: dict[str, Any]) -> Path:
    """Write these checks into their file, beside what it holds of others."""
    path = ON_CPU if device == "cpu" else RESULTS
    found = read_results(ROOT / path) | {
        result.check.name: entry(result, where) for result in results
    }
    ordered = {check.name: found[check.name] for check in CHECKS if check.name in found}
    write_text(ROOT / path, json.dumps(ordered, indent=1) + "\n")
    write_text(ROOT / PAGE, page(read_results(ROOT / RESULTS)))
    return path


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=benchmarks.gpu.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="leave out the speeds")
    parser.add_argument(
        "--only", nargs="+", choices=[*BY_NAME], metavar="NAME", help="of checks.py"
    )
    arguments = parser.parse_args(argv)
    device, only = arguments.device, arguments.only or [*BY_NAME]
    chosen = [
        check for check in CHECKS
        if check.name in only and not (arguments.quick and check.is_speed)
    ]  # fmt: skip
    if device == "cuda":
        check_gpu()
    console = Console(stderr=True)
    where = measured_on(device)  # before a result changes the tree
    results = list[Result]()
    for group in groups(chosen, device):
        with console.status(", ".join(check.name for check in group)):
            for result in run_checks(group, device):
                results.append(result)
                path = keep(results, device, where)  # a run that is stopped keeps what it has
                console.print(f"{result.check.name}: {result.verdict}, {result.seconds:.0f} s")
                if result.error:
                    console.print(result.error, style="red", markup=False, highlight=False)
    show(results, Console())
    verdicts = [result.verdict for result in results]
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    print(f"{', '.join(f'{n} {verdict}' for verdict, n in counts.items())}; wrote {path}")
    if device == "cpu":
        needing = [
            f"{result.check.name}: {figure.name}"
            for result in results
            for figure in result.figures
            if figure.verdict == NEEDS_GPU
        ] + [result.check.name for result in results if not result.figures and not result.error]
        print(f"need a GPU: {'; '.join(needing) or 'none'}", file=sys.stderr)
    sys.exit(FAILED in verdicts)


def check_gpu() -> None:
    """Refuse a machine whose GPU torch cannot use.

    Raises:
        ValueError: says why, and the remedy.
    """
    from kd_lab.machine.nvidia import nvidia_gpus, torch_build, why_unused

    why = why_unused(nvidia_gpus(), torch_build())
    if why:
        raise ValueError(f"{why}; without a GPU: make gpu DEVICE=cpu")


if __name__ == "__main__":
    run_script(main)
