"""A tiny recipe as `accelerate launch` runs it: two processes, ZeRO-2 and ZeRO-3, one result."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from kd_lab.cli import main
from kd_lab.recipe import find_recipe
from kd_lab.runs.run_files import read_metrics
from tests.helpers.forked_processes import accelerate_launch
from tests.helpers.toy_pair import TOKENIZER, toy_model

STEPS = ["--max_steps", "4", "--logging_steps", "2", "--num_conversations", "256"]


def words(out: str, batch: int) -> list[str]:
    batches = ["--per_device_train_batch_size", str(batch)]
    return ["train", "--config", "tiny/token_fkl", *STEPS, *batches, "--output_dir", out]


def as_a_user(config: Path, folder: Path, out: str) -> None:
    launcher = ["accelerate.commands.launch", "--config_file", str(config), "--num_processes", "2"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "kd_lab", *words(out, batch=8)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    # Gloo may abort a process that is already done, so that what was written counts.
    assert (folder / out / "complete").exists(), done.stderr[-3000:]


def forked(config: Path, folder: Path, out: str) -> None:
    logs = folder / f"{out}-logs"
    with contextlib.suppress(ChildFailedError):
        accelerate_launch(config, words(out, batch=8), folder=folder, logs=logs)
    said = [file.read_text()[-3000:] for file in logs.rglob("stderr.log")]
    assert (folder / out / "complete").exists(), said


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """A folder with a teacher and a start as the recipe names them, and its run by one process."""
    folder = tmp_path_factory.mktemp("launch")
    for name, model in (("teacher", toy_model(64, 2, seed=2)), ("start", toy_model(32, 1, seed=1))):
        model.save_pretrained(folder / "runs/tiny" / name)
        TOKENIZER.save_pretrained(folder / "runs/tiny" / name)
    with contextlib.chdir(folder):
        assert main(words("runs/alone", batch=16)) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "launch"), [("cpu2", as_a_user), ("zero2", forked), ("zero3", forked)]
)
def test_two_processes_end_where_one_does(config, launch, alone):
    launch(find_recipe(f"accelerate/{config}"), alone, f"runs/{config}")
    assert json.loads((alone / f"runs/{config}/versions.json").read_text())["processes"] == 2
    ours, theirs = (read_metrics(alone / "runs" / name) for name in (config, "alone"))
    for name in ("loss", "grad_norm", "divergence"):
        for line, other in zip(ours[:2], theirs[:2], strict=True):
            assert line[name] == pytest.approx(other[name], rel=1e-4)
    weights, others = (
        load_file(alone / "runs" / name / "model.safetensors") for name in (config, "alone")
    )
    assert weights.keys() == others.keys()
    for name, weight in weights.items():  # gathered from the shards, and whole
        assert weight.shape == others[name].shape
        assert (weight - others[name]).abs().max() < 1e-3, name
