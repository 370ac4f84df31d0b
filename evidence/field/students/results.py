"""All students of the comparison: a file a loss, then assets/results/field_students.json."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evidence.field.students import training
from evidence.field.students.language import Students
from evidence.field.students.losses import STUDENT_LOSSES, TOP_K, StudentLoss
from kd_lab.evaluation.intervals import t_interval
from kd_lab.files import damaged, read_mapping, write_text
from kd_lab.runs.versions import run_versions

LEVEL = 0.95
MEASURES = ("precision", "coverage", "forward_kl", "reverse_kl")
SETTINGS = {
    "seeds": training.SEEDS, "start_steps": training.START_STEPS, "steps": training.STEPS,
    "batch": training.BATCH, "start_rate": training.FAST, "rate": training.SLOW, "k": TOP_K,
}  # fmt: skip


def measure(runs: Path) -> dict[str, Any]:
    """Train whoever is not there yet, and compare.

    Args:
        runs: a folder with a file a loss; one that is there, with these settings, is not repeated.
    """
    training.one_thread()
    runs.mkdir(parents=True, exist_ok=True)
    teacher = _run(runs / "teacher.json", training.of_teacher)
    start = _run(runs / "start.json", lambda: _become(training.starts()))
    found = {
        loss.key: _run(runs / f"{loss.key}.json", partial(_trained, loss))
        for loss in STUDENT_LOSSES
    }
    return {
        "versions": run_versions({"seed": 0}),
        "settings": SETTINGS | {"level": LEVEL},
        "seconds": sum(run["seconds"] for run in [teacher, start, *found.values()]),
        "teacher": teacher["measures"],
        "start": {name: _interval(start["measures"][name]) for name in MEASURES},
        "losses": [
            {
                "key": loss.key,
                "what": loss.what,
                "who": loss.who,
                "control": loss.control,
                "prefixes": loss.prefixes,
                **_compared(found[loss.key]["measures"], found[loss.control]["measures"]),
            }
            for loss in STUDENT_LOSSES
        ],
    }


def _become(students: Students) -> dict[str, list[float]]:
    return training.measure(students.distributions())


def _trained(loss: StudentLoss) -> dict[str, list[float]]:
    return _become(training.train(loss))


def _run(path: Path, of: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """A run's file; made where it is not there."""
    mend = f"remove it and give the same command again, which trains {path.stem} anew"
    if path.is_file() and (kept := read_mapping(path, mend)).get("settings") == SETTINGS:
        measured = kept.get("measures")
        if not isinstance(measured, dict) or not all(map(_are_numbers, measured.values())):
            raise damaged(path, "its measures are no numbers", mend)
        if not {*MEASURES} <= measured.keys() or not _are_numbers(kept.get("seconds")):
            raise damaged(path, "it lacks a measure, or its seconds", mend)
        return kept
    began = time.process_time()
    measures = of()
    run = {
        "settings": SETTINGS, "seconds": time.process_time() - began, "measures": measures,
    }  # fmt: skip
    write_text(path, json.dumps(run, indent=1) + "\n")
    means = ", ".join(f"{name} {np.mean(values):.3g}" for name, values in measures.items())
    print(f"{path.stem} ({run['seconds']:.0f} s): {means}", flush=True)
    return run


def _are_numbers(values: Any) -> bool:
    """Whether these are one finite number, or one a seed."""
    given = np.asarray(values, dtype=object)
    numbers = [isinstance(one, int | float) and np.isfinite(one) for one in given.flat]
    return all(numbers) and given.shape in ((), (training.SEEDS,))


def _compared(
    mine: Mapping[str, Sequence[float]], control: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Means over seeds; and by seed, since a loss and its control have the same starts."""
    return {
        "measures": {name: _interval(mine[name]) for name in MEASURES},
        "against_control": {
            name: _interval([a - b for a, b in zip(mine[name], control[name], strict=True)])
            for name in MEASURES
        },
    }


def _interval(values: Sequence[float]) -> dict[str, Any]:
    """A mean over seeds with its t-interval."""
    low, high = t_interval(values, level=LEVEL)
    return {"mean": float(np.mean(values)), "low": low, "high": high, "values": list(values)}
