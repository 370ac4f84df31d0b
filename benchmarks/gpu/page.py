"""GPU.md: what is computed, what a CPU has measured, and what waits for ``make gpu``."""

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import CHECKS, Check, groups
from benchmarks.gpu.figure import FAILED, PASSED, Figure

RESULTS, PAGE = Path("assets/results/gpu.json"), Path("GPU.md")
UNMEASURED = "unmeasured"


def page(results: dict[str, Any]) -> str:
    """The page's text.

    Args:
        results: by check, as the file of a GPU's results holds them.
    """
    minutes = sum(max(check.minutes for check in group) for group in groups(CHECKS, "cuda"))
    lines = [
        "# What is known on GPUs",
        "",
        _state(results),
        "",
        "`make gpu` runs all checks on one GPU of 80 GB. Models have Qwen2.5's true shapes and",
        f"random weights, so that it needs no network. It took {minutes:.0f} minutes on an H200.",
        "`make gpu DEVICE=cpu` runs the same code in small.",
        "`benchmarks/gpu/` has a file for each check, with its expected ranges.",
        "",
        "| check | shows | computed | a CPU measures | on a GPU |",
        "|---|---|---|---|---|",
        *(_row(check, results) for check in CHECKS),
        "",
        *_outside(results),
        "Unmeasured: several GPUs at a time (FSDP2 needs two), vLLM on a GPU, and other cards.",
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


def _outside(results: dict[str, Any]) -> list[str]:
    """The numbers that were not in their ranges, as these stood before the run."""
    found = [
        f"- `{name}`: {figure['name']}: {figure['value']:.3g} {figure['unit']}".rstrip()
        + f" ({Figure(figure['name'], None, '', figure['low'], figure['high']).expected})"
        for name, result in results.items()
        for figure in result["figures"]
        if figure["verdict"] == FAILED
    ]
    return ["Outside the ranges that stood before the run:", "", *found, ""] if found else []


def _row(check: Check, results: dict[str, Any]) -> str:
    found = UNMEASURED
    if check.name in results:
        result = results[check.name]
        counts = [figure["verdict"] for figure in result["figures"]]
        passed, failed = counts.count(PASSED), counts.count(FAILED)
        found = f"{result['verdict']}, {passed} of {passed + failed} figures in range"
    cells = (f"`{check.name}`", check.shows, check.computed, check.on_a_cpu, found)
    return f"| {' | '.join(cells)} |"
