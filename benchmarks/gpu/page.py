"""GPU.md: what is computed, what a CPU has measured, and what waits for ``make gpu``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import CHECKS, Check, groups
from benchmarks.gpu.figure import FAILED, PASSED, Figure

RESULTS, PAGE = Path("assets/results/gpu.json"), Path("GPU.md")
UNMEASURED = "unmeasured"
# What a reader asks first: (check, figure).
FIRST = (
    ("loss_speed", "ours, forward_kl, over the floor"),
    ("loss_speed", "ours, forward_kl, over the better of Liger and TRL"),
    ("kernels", "forward_kl: kernels against the plain passes, gradient"),
    ("memory", "plan above the run"),
    ("steps", "token_fkl: speed"),
    ("steps", "token_fkl: share of the peak, recomputation included"),
    ("steps", "time of forward KL, ours over TRL's"),
    ("runs", "minillm: divergence, gpu against cpu, all steps"),
    ("writing", "1.5B, float32 under autocast, 64 rows"),
    ("writing", "7B, bfloat16, 64 rows"),
    ("compiled_decode", "1.5B, float32 under autocast, 64 rows: over the plain step"),
    ("compiled_decode", "1.5B, bfloat16, 64 rows: over the plain step"),
    ("compiled_decode", "7B, bfloat16, 64 rows: over the plain step"),
)


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
        f"random weights, so that it needs no network. An H200 needs about {minutes:.0f} minutes.",
        "`make gpu DEVICE=cpu` runs the same code in small.",
        "`benchmarks/gpu/` has a file for each check, with its expected ranges.",
        "",
        "Of each check: how many of the figures with a range were in it, on a GPU.",
        "",
        "| check | on a GPU | shows | computed | a CPU measures |",
        "|---|---|---|---|---|",
        *(_row(check, results) for check in CHECKS),
        "",
        *_listed(
            "Among the figures:",
            _figures(results, lambda check, found: (check, found["name"]) in FIRST),
        ),
        *_listed(
            "Outside the ranges that stood when it ran:",
            _figures(results, lambda _, found: found["verdict"] == FAILED),
        ),
        "Two earlier runs on an H200 failed eight checks. Products, a call of Liger's and a launch",
        "that needs two GPUs were mended. Ranges of `loss`, `evaluation`, `shares`, `steps` and",
        "`writing` were widened. Each file in `benchmarks/gpu/` says why.",
        "",
        *_compiled_decode(results),
        "Unmeasured: several GPUs at a time (FSDP2 needs two), vLLM on a GPU, and other cards.",
        "",
        "`python -m benchmarks.gpu` writes this page, from `benchmarks/gpu/checks.py`.",
        "",
    ]
    return "\n".join(lines)


def _compiled_decode(results: dict[str, Any]) -> list[str]:
    """What its numbers lack, where an older torch or an older check measured them."""
    if "compiled_decode" not in results:
        return []
    found, lines = results["compiled_decode"], []
    version = found["versions"]["libraries"]["torch"].split(".")
    if (int(version[0]), int(version[1])) < (2, 13):
        lines += [
            "That machine had an older torch than the project asks for. `compiled_decode` ran",
            "without `isolate_recompiles`, which it lacks.",
        ]
    if not any("under autocast" in figure["name"] for figure in found["figures"]):
        lines += ["A compiled step under autocast and at 7B was not timed."]
    return [*lines, ""] if lines else []


def read_results(path: Path) -> dict[str, Any]:
    """What each check came to when it last ran; none before the first."""
    return json.loads(path.read_text()) if path.exists() else {}


def _state(results: dict[str, Any]) -> str:
    if not results:
        return "**Nothing here was measured on a GPU yet.** The second column waits for `make gpu`."
    where = dict.fromkeys(
        f"{gpu['name']} with torch {found['versions']['libraries']['torch']}, at commit "
        f"{str(found['versions']['git_commit'])[:7]}"
        for found in results.values()
        for gpu in found["gpus"]
    )
    return f"Measured on {'; '.join(where)}: [all numbers]({RESULTS.as_posix()})."


def _figures(
    results: dict[str, Any], is_wanted: Callable[[str, dict[str, Any]], bool]
) -> list[str]:
    """A line for each figure that is wanted, by its check."""
    lines = []
    for check, result in results.items():
        for found in result["figures"]:
            if found["value"] is not None and is_wanted(check, found):
                expected = Figure("", None, "", found["low"], found["high"]).expected
                value = f"{found['value']:.3g} {found['unit']}".strip()
                name = f"- `{check}`: {found['name']}: {value}"
                lines.append(f"{name} ({expected})" if expected else name)
    return lines


def _listed(title: str, lines: list[str]) -> list[str]:
    return [title, "", *lines, ""] if lines else []


def _row(check: Check, results: dict[str, Any]) -> str:
    found = UNMEASURED
    if check.name in results:
        result = results[check.name]
        counts = [figure["verdict"] for figure in result["figures"]]
        passed, failed = counts.count(PASSED), counts.count(FAILED)
        found = f"{result['verdict']}, {passed} of {passed + failed}"
    cells = (f"`{check.name}`", found, check.shows, check.computed, check.on_a_cpu)
    return f"| {' | '.join(cells)} |"
