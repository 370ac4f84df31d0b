"""GPU.md: what is computed, what a CPU has measured, and what waits for ``make gpu``."""

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import CHECKS, MOST_MINUTES, Check

RESULTS, PAGE = Path("assets/results/gpu.json"), Path("GPU.md")
UNMEASURED = "unmeasured"


def page(results: dict[str, Any]) -> str:
    """The page's text.

    Args:
        results: by check, as the file of a GPU's results holds them.
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


def read_results(path: Path) -> dict[str, Any]:
    """What each check came to when it last ran; none before the first."""
    return json.loads(path.read_text()) if path.exists() else {}


def _state(results: dict[str, Any]) -> str:
    if not results:
        return "**Nothing here was measured on a GPU yet.** The last column waits for `make gpu`."
    where = dict.fromkeys(
        f"{gpu['name']} with torch {found['versions']['libraries']['torch']}, at commit "
        f"{str(found['versions']['git_commit'])[:7]}"
        for found in results.values()
        for gpu in found["gpus"]
    )
    return f"Measured on {'; '.join(where)}: [all numbers]({RESULTS.as_posix()})."


def _row(check: Check, results: dict[str, Any]) -> str:
    found = UNMEASURED
    if check.name in results:
        result = results[check.name]
        counts = [figure["verdict"] for figure in result["figures"]]
        passed = f", {counts.count('passed')} of {len(counts)} figures" if counts else ""
        found = f"{result['verdict']}{passed}"
    cells = (f"`{check.name}`", check.shows, check.computed, check.on_a_cpu, found)
    return f"| {' | '.join(cells)} |"
