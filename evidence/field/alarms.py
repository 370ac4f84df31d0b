"""How far ``kd-lab check`` can be trusted: false alarms over seeds, and faults put into losses.

The losses are those of its tests. A loss whose rows depend on one another is named by sampling, and
so a right one is refused at times. All others are exact: what holds for one seed holds for all.
"""

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scipy.stats import beta

from kd_lab.check import check_loss
from kd_lab.check.sampling import LEVEL
from kd_lab.files import damaged, read_mapping, write_text
from kd_lab.runs.versions import run_versions
from tests.helpers.changed_losses import FAULTS, RIGHT
from tests.helpers.losses import Case

# The rule for a refusal was chosen on seeds below 100, so its rate is counted on others.
SEEDS = range(1000, 1200)
SAMPLED = "a baseline of the batch's mean"  # of the right losses the one that must be sampled
CONFIDENCE = 0.95


def measure(runs: Path, seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """Check what is not checked yet.

    Args:
        runs: a folder for what is done; what is there is not repeated.
        seeds: of the loss that is named by sampling.
    """
    runs.mkdir(parents=True, exist_ok=True)
    done = _Done(runs / "done.json")
    faults = [{"fault": name, **done.get(name, partial(_fault, case))}
              for name, case in FAULTS.items()]  # fmt: skip
    right = [{"loss": name, **done.get(name, partial(_right, case, 0))}
             for name, case in RIGHT.items()]  # fmt: skip
    sampled = [
        done.get(f"{SAMPLED}, seed {seed}", partial(_right, RIGHT[SAMPLED], seed)) for seed in seeds
    ]
    alarms = sum(bool(one["objections"]) for one in sampled)
    return {
        "versions": run_versions({"seed": 0}),
        "faults": faults,
        "right": right,
        "sampled": {
            "loss": SAMPLED,
            "seeds": len(sampled),
            "alarms": alarms,
            "level": LEVEL,
            "confidence": CONFIDENCE,
            "rate": alarms / len(sampled),
            **clopper_pearson(alarms, len(sampled)),
        },
        "seconds": done.seconds,
    }


def clopper_pearson(alarms: int, of: int) -> dict[str, float]:
    """The exact interval of a rate."""
    outside = (1 - CONFIDENCE) / 2
    return {
        "low": float(beta.ppf(outside, alarms, of - alarms + 1)) if alarms else 0.0,
        "high": float(beta.ppf(1 - outside, alarms + 1, of - alarms)) if alarms < of else 1.0,
    }


def _fault(case: Case) -> dict[str, Any]:
    """What is said of a loss with a fault, and whether that is right."""
    how = {name: value for name, value in case.how.items() if name != "expected"}
    verdict = check_loss(case.function, **how)
    said = [verdict.line, *(finding.words for finding in verdict.findings)]
    right = [words for words in said if case.expected in words]
    return {"form": verdict.form, "said": (right or said)[0], "is_right": bool(right)}


def _right(case: Case, seed: int) -> dict[str, Any]:
    """What is objected to a loss that is right."""
    how: dict[str, Any] = dict(case.how)
    settings = how.pop("expected_settings", {})
    verdict = check_loss(case.function, seed=seed, **how)
    return {
        "form": verdict.form,
        "expected": case.expected,
        "objections": verdict.objections(case.expected, **settings),
    }


class _Done:
    """What was checked, in one file; and how long it took, in seconds of the processor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        mend = "remove it and give the same command again, which checks all anew"
        self.found: dict[str, dict[str, Any]] = read_mapping(path, mend) if path.is_file() else {}
        for name, one in self.found.items():
            is_whole = isinstance(one, dict) and isinstance(one.get("said"), dict)
            if not is_whole or not isinstance(one.get("seconds"), int | float):
                raise damaged(path, f"{name!r} lacks what was said, or its seconds", mend)

    @property
    def seconds(self) -> float:
        return sum(one["seconds"] for one in self.found.values())

    def get(self, name: str, check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is said under a name; checked where it is not there."""
        if name not in self.found:
            began = time.process_time()
            said = check()
            self.found[name] = {"said": said, "seconds": time.process_time() - began}
            write_text(self.path, json.dumps(self.found, ensure_ascii=False, indent=1) + "\n")
        said = self.found[name]["said"]
        assert isinstance(said, dict)
        return said
