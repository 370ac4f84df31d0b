"""An evaluation is read as it was written, and only beside the model that it was made of."""

import json
import random
from pathlib import Path

import pytest

from kd_lab.cli import main
from kd_lab.model_identity import model_identity, recorded_identity
from kd_lab.runs.evaluations import (
    check_may_write,
    read_config,
    read_evaluation,
    write_evaluation,
)
from kd_lab.runs.marker import mark_whole
from kd_lab.runs.run_folder import record_run
from tests.helpers.refusal import refusal
from tests.helpers.toy_pair import toy_model
from tests.helpers.written_runs import write_run


@pytest.fixture
def run(tmp_path) -> Path:
    """An evaluated run with its model and its marker."""
    folder = write_run(tmp_path / "fkl-1", {})
    toy_model(32).save_pretrained(folder)
    mark_whole(folder)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["student"] = model_identity(str(folder))
    write_evaluation(folder / "evaluation.json", evaluation)
    return folder


def test_a_whole_evaluation_is_reported(run, tmp_path):
    assert main(["report", str(run), "--output_dir", str(tmp_path / "report")]) == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_changed_digit_is_found_and_the_file_named(run, seed):
    path, draw = run / "evaluation.json", random.Random(seed)
    text = changed = path.read_text()
    digits = [i for i, letter in enumerate(text) if letter.isdigit()]
    # The seventeenth digit of a number can change and the number stay: then nothing was changed.
    while json.loads(changed) == json.loads(text):
        at = draw.choice(digits)
        changed = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
    path.write_text(changed)
    with pytest.raises(ValueError, match=r"evaluation.json is not what was written"):
        read_evaluation(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("null", "it holds no mapping"),
        ("3", "it holds no mapping"),
        ("{", "is not JSON"),
        ("\ufeff", "is not JSON"),
        ('{"metrics": {}}', "it has no 'weights'"),
    ],
)
def test_what_is_no_evaluation_is_one_line(run, tmp_path, capsys, content, said):
    (run / "evaluation.json").write_text(content)
    line = refusal(capsys, "report", str(run), "--output_dir", str(tmp_path / "report"))
    assert "evaluation.json" in line
    assert said in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e["metrics"]["rouge1"].pop("values"), "rouge1 has no values"),
        (lambda e: e["metrics"]["rouge1"].update(mean=None), "mean of rouge1 is None"),
        (lambda e: e.update(settings=[]), r"settings is \[\], and should be a mapping"),
    ],
)
def test_a_part_that_is_wrong_is_named(run, change, said):
    evaluation = json.loads((run / "evaluation.json").read_text())
    change(evaluation)
    write_evaluation(run / "evaluation.json", evaluation)
    with pytest.raises(ValueError, match=said):
        read_evaluation(run / "evaluation.json")


@pytest.mark.parametrize("content", ["", "- 1", "alpha: [", "seed: 1"])
def test_a_config_that_is_none_is_one_line(run, tmp_path, capsys, content):
    (run / "config.yaml").write_text(content)
    (run / "complete").unlink()
    line = refusal(capsys, "report", str(run), "--output_dir", str(tmp_path / "report"))
    assert "config.yaml" in line


def test_an_evaluation_of_an_earlier_model_of_the_run_is_not_reported(run, tmp_path, capsys):
    toy_model(32, seed=5).save_pretrained(run)  # as if trained on
    mark_whole(run)
    line = refusal(capsys, "report", str(run), "--output_dir", str(tmp_path / "report"))
    assert "is of another model than" in line
    assert f"kd-lab evaluate --model_name_or_path {run}" in line


def test_lora_weights_measured_on_another_base_are_not_reported(run, tmp_path, capsys):
    (run / "config.json").unlink()
    (run / "model.safetensors").rename(run / "adapter_model.safetensors")
    (run / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    record_run(run, read_config(run), {"base": {"name": "base", "sha256": "of the training"}})
    mark_whole(run)
    path, out = run / "evaluation.json", str(tmp_path / "report")

    def measure_on(base: str) -> None:
        student = {**recorded_identity(run), "base_sha256": base}
        write_evaluation(path, {**read_evaluation(path), "student": student})

    measure_on("of the training")
    assert main(["report", str(run), "--output_dir", out]) == 0
    measure_on("of another")
    assert "is of another model than" in refusal(capsys, "report", str(run), "--output_dir", out)


def test_the_evaluation_of_one_model_is_not_written_beside_another(run, tmp_path):
    other = {"name": "other", "sha256": "of the other"}
    with pytest.raises(ValueError, match="holds another model"):
        check_may_write(run, str(tmp_path / "other"), other)
    apart = tmp_path / "apart"
    write_evaluation(apart / "evaluation.json", read_evaluation(run / "evaluation.json"))
    with pytest.raises(ValueError, match="is of another model"):
        check_may_write(apart, str(tmp_path / "other"), other)
    check_may_write(apart, str(run), model_identity(str(run)))
    check_may_write(run, str(run), model_identity(str(run)))
