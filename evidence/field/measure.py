"""Every implementation through ``kd-lab check``: assets/results/field.json."""

from typing import Any

from evidence.field.implementations import IMPLEMENTATIONS, Implementation
from kd_lab.check import check_loss
from kd_lab.runs.versions import run_versions


def measure() -> dict[str, Any]:
    """The verdict of each implementation, in order."""
    return {
        "versions": run_versions({"seed": 0}),
        "implementations": [examined(one) for one in IMPLEMENTATIONS],
    }


def examined(one: Implementation) -> dict[str, Any]:
    """What an implementation says, and what its gradient is."""
    verdict = check_loss(one.function, one.form, **one.how)
    return {
        "project": one.project,
        "what": one.what,
        "where": one.where,
        "says": one.says,
        "is_run": one.is_run,
        "state": one.state,
        "expected": one.expected,
        "objections": verdict.objections(one.expected, **one.expected_settings),
        **verdict.to_json(),
    }
