"""The study of SmolLM2, command by command, with a small model in its place."""

import json

import pytest

from kd_lab.cli import main
from kd_lab.study import smol
from tests.helpers.toy_pair import saved_toy_model


@pytest.mark.slow
def test_every_command_of_the_study_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(smol, "FOLDER", saved_toy_model(tmp_path / "model", 32, 2, seed=0))
    folder = tmp_path / "study"
    for task in smol.smol_study(folder, seeds=1, quick=True, methods=["token_fkl"]):
        assert main(task.words) == 0, task.name
        assert task.result.exists(), task.name
    metrics = json.loads((folder / "token_fkl-1" / "evaluation.json").read_text())["metrics"]
    assert metrics["forward_kl"]["n"] == 4
