"""Runs as a report finds them, of values that a test chooses.

They are written with the writers of ``kd-lab train`` and ``kd-lab evaluate``.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kd_lab.cli import parse
from kd_lab.evaluation.measurements import Measurements
from kd_lab.evaluation.metrics import METRICS
from kd_lab.runs.run_files import resolved_config
from kd_lab.runs.run_folder import record_run
from kd_lab.runs.versions import run_versions

EXAMPLES = 60
METRIC = {metric.name: metric for metric in METRICS}
RECIPES = {
    "sft": ["--alpha", "0"],
    "fkl": ["--alpha", "1"],
    "rkl": ["--alpha", "0.5", "--divergence", "reverse_kl"],
}
FKL, RKL = "dataset × FKL", "0.5 SFT + 0.5 dataset × RKL"
BASE = 0.5 + np.random.default_rng(0).normal(0, 0.01, EXAMPLES)


def write_run(folder: Path, values: dict[str, np.ndarray], *words: str, **evaluation) -> Path:
    """A run, NAME-SEED, as training and evaluation leave it; a metric without values is noise."""
    recipe, _, seed = folder.name.partition("-")
    start = ["--model_name_or_path", "runs/start", "--teacher_model_name_or_path", "runs/teacher"]
    options = [*start, *RECIPES[recipe], "--seed", seed, "--output_dir", str(folder), *words]
    config = resolved_config(*parse("train", options))
    record_run(folder, config)
    log = [{"step": s, "eval_forward_kl": 1 / s, "eval_reverse_kl": 2 / s} for s in (1, 2, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))

    side = {"parameters": 57_536, "tokens_per_second": 100.0, "device": "cpu"}
    result = {
        **(_measured(folder.name, values) if values else _noise(folder.name)),
        "speed": {"student": side, "teacher": side, "batch_size": 8, "tokens_each": 32},
        "student": {"name": folder.name, "sha256": folder.name},
        "teacher": {"name": "teacher", "sha256": "of the teacher"},
        "test_set": {"examples": EXAMPLES, "prompts_sha256": "of the prompts"},
        "settings": {"model_name_or_path": str(folder), "sampling_temperature": 1.0},
        "versions": _versions(config["seed"]),
        **evaluation,
    }
    (folder / "evaluation.json").write_text(json.dumps(result))
    return folder


def _measured(name: str, values: dict[str, np.ndarray]) -> dict[str, Any]:
    rng = np.random.default_rng(sum(name.encode()))
    found = Measurements(missing={"bartscore": "no BART model here"})
    found.weights["reference_tokens"] = np.arange(EXAMPLES) % 7 + 5.0
    for metric in METRIC.keys() - found.missing.keys():
        weighted = metric in ("forward_kl", "reverse_kl", "jensen_shannon")
        given = values.get(metric, rng.uniform(0.4, 0.6, EXAMPLES))
        found.add({metric: given}, "reference_tokens" if weighted else None)
    return found.to_json(seed=0)


@cache
def _noise(name: str) -> dict[str, Any]:
    """What is measured of a run without values of a test's own: its intervals are drawn once."""
    return _measured(name, {})


@cache
def _versions(seed: int) -> dict[str, Any]:
    return run_versions({"seed": seed})


def write_study(folder: Path) -> list[Path]:
    """Two seeds of SFT and of FKL, one of RKL."""
    return [write_run(folder / name, {}) for name in ("sft-1", "sft-2", "fkl-1", "fkl-2", "rkl-1")]
