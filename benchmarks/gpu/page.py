"""GPU.md: what is computed, what a CPU has measured, and what waits for ``make gpu``."""

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import CHECKS, MOST_MINUTES, Check

RESULTS, PAGE = Path("assets/results/gpu.json"), Path("GPU.md")
UNMEASURED = "unmeasured"


def page(results: dict[str, Any] | None) -> str:
    """The page's text.

    Args:
        results: of a whole run on a GPU, as its file holds them; None before the first.
    """
    minutes = sum(check.minutes for check in CHECKS)
    lines = [
        "# What is known on GPUs",
        "",
        _state(results),
        "",
        "`make gpu` runs all checks on one GPU of 80 GB. Models have Qwen2.5's true shapes and",
        "random weights, so that it needs no network. On an H100 it takes",
        f"{minutes:.0f} minutes, by estimate, and at most {MOST_MINUTES}.",
        "`make gpu DEVICE=cpu` runs the same code in small.",
        "`benchmarks/gpu/` has a file for each check, with its expected ranges.",
        "",
        "| check | shows | computed | a CPU measures | on a GPU |",
        "|---|---|---|---|---|",
        *(_row(check, results) for check in CHECKS),
        "",
        "`python -m benchmarks.gpu` writes this page, from `benchmarks/gpu/checks.py`.",
        "",
    ]
    return "\n".join(lines)


def read_results(root: Path) -> dict[str, Any] | None:
    """Those of the last whole run on a GPU; None before the first."""
    path = root / RESULTS
    return json.loads(path.read_text()) if path.exists() else None


def _state(results: dict[str, Any] | None) -> str:
    if results is None:
        return "**Nothing here was measured on a GPU yet.** The last column waits for `make gpu`."
    cards = ", ".join(gpu["name"] for gpu in results["gpus"])
    commit = str(results["versions"]["git_commit"])[:7]
    return f"Measured on {cards}, at commit {commit}: [all numbers]({RESULTS.as_posix()})."


def _row(check: Check, results: dict[str, Any] | None) -> str:
    found = UNMEASURED
    if results is not None:
        result = results["checks"][check.name]
        counts = [figure["verdict"] for figure in result["figures"]]
        passed = f", {counts.count('passed')} of {len(counts)} figures" if counts else ""
        found = f"{result['verdict']}{passed}"
    cells = (f"`{check.name}`", check.shows, check.computed, check.on_a_cpu, found)
    return f"| {' | '.join(cells)} |"
