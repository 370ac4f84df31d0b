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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import benchmarks.gpu
from benchmarks.gpu.checks import BY_NAME, CHECKS, Check
from benchmarks.gpu.figure import FAILED, NEEDS_GPU, PASSED, Figure, verdict_of
from benchmarks.gpu.page import PAGE, RESULTS, page, read_results
from kd_lab.files import write_text
from toy.script import run_script

ROOT = Path(__file__).parents[2]
WHOLE, PART, ON_CPU = (
    RESULTS, Path("build/gpu-part.json"), Path("build/gpu-cpu.json")
)  # fmt: skip
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


def run_check(check: Check, device: str) -> Result:
    """The check in its process, which has a time limit."""
    if device == "cpu" and not check.on_a_cpu:
        return Result(check, [], 0.0)
    start = time.perf_counter()
    limit = check.limit_seconds if device == "cuda" else CPU_LIMIT_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "figures.json")
        words = [sys.executable, "-m", "benchmarks.gpu.worker", check.name, device, str(out)]
        error = ended_with(words, limit)
        # Those before an error count too.
        figures = (
            [Figure(**figure) for figure in json.loads(out.read_text())] if out.exists() else []
        )
    return Result(check, figures, time.perf_counter() - start, error)


def ended_with(words: Sequence[str], limit_seconds: float) -> str:
    """The end of what a process wrote to stderr if it failed; empty if it did not."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL, stderr=said, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            stop(process)
            return f"stopped after {limit_seconds:.0f} s, its limit"
        except KeyboardInterrupt:
            stop(process)
            raise
        said.seek(0)
        return (said.read().strip()[-3000:] or "no message") if process.returncode else ""


def stop(process: subprocess.Popen) -> None:
    """End a process and all that it started: a launcher is asked, and ends its own."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, sign)
            process.wait(10)


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


def report(results: Sequence[Result], device: str) -> dict[str, Any]:
    """All numbers, and what they were measured on."""
    import torch

    from kd_lab.machine.nvidia import nvidia_gpus
    from kd_lab.runs.versions import run_versions

    gpus = nvidia_gpus() if device == "cuda" else []
    return {
        "device": device,
        "gpus": [gpu._asdict() for gpu in gpus],
        "cuda": torch.version.cuda,
        "versions": run_versions({}),
        "checks": {
            result.check.name: {
                "shows": result.check.shows,
                "verdict": result.verdict,
                "seconds": round(result.seconds, 1),
                **({"error": result.error} if result.error else {}),
                "figures": [
                    {**dataclasses.asdict(figure), "verdict": figure.verdict}
                    for figure in result.figures
                ],
            }
            for result in results
        },
    }


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
    results = []
    for check in chosen:
        with console.status(f"{check.name}: {check.shows}"):
            results.append(run_check(check, device))
        console.print(f"{check.name}: {results[-1].verdict}, {results[-1].seconds:.0f} s")
        if results[-1].error:
            console.print(results[-1].error, style="red", markup=False, highlight=False)
    show(results, Console())
    path = ON_CPU if device == "cpu" else WHOLE if len(chosen) == len(CHECKS) else PART
    write_text(ROOT / path, json.dumps(report(results, device), indent=1) + "\n")
    write_text(ROOT / PAGE, page(read_results(ROOT)))
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
