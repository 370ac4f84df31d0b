"""A run goes on from a whole checkpoint, as itself; a run that never trained owns nothing."""

import json
import shutil

import pytest
import yaml

from kd_lab.runs.marker import mark_whole
from kd_lab.runs.resuming import (
    check_no_other_files,
    check_same_inputs,
    has_trained,
    is_finished,
    last_whole_checkpoint,
    start_run,
)
from kd_lab.runs.run_folder import record_run

ASKED = {"learning_rate": 1e-3, "divergence": "reverse_kl", "max_steps": 8, "save_steps": 2}


@pytest.fixture
def run(tmp_path):
    """A run of eight steps with whole checkpoints after 2 and 4."""
    for step in (2, 4):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("model.safetensors", "optimizer.pt"):
            (folder / name).write_text(f"{name} of step {step}")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        mark_whole(folder)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(ASKED))
    return tmp_path


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(run, capsys):
    assert last_whole_checkpoint(run) == run / "checkpoint-4"
    (run / "checkpoint-4" / "optimizer.pt").write_text("optimizer.pt of step 3")
    assert start_run(run, "true", ASKED) == run / "checkpoint-2"
    said = capsys.readouterr().err
    assert "checkpoint-4/optimizer.pt is damaged" in said
    assert "the checkpoint before it is taken" in said


def test_a_damaged_checkpoint_that_was_asked_for_is_refused(run):
    (run / "checkpoint-4" / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-4/trainer_state.json is missing"):
        start_run(run, str(run / "checkpoint-4"), ASKED)


def test_a_copy_of_a_checkpoint_by_another_name_is_none(run):
    (run / "checkpoint-4").rename(run / "checkpoint-best")
    assert start_run(run, "true", ASKED) == run / "checkpoint-2"


def test_a_run_s_model_is_no_checkpoint(run):
    (run / "model.safetensors").write_text("the final model")
    mark_whole(run)
    with pytest.raises(ValueError, match="is no checkpoint: give one of a run's checkpoint-N"):
        start_run(run.parent / "new", str(run), ASKED)


def test_a_folder_that_no_run_wrote_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="is no checkpoint: give one of a run's checkpoint-N"):
        start_run(tmp_path / "new", str(tmp_path), ASKED)
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.raises(ValueError, match="checkpoint-4 is not whole: the run was cut off"):
        start_run(tmp_path / "new", str(tmp_path / "checkpoint-4"), ASKED)


@pytest.mark.parametrize(
    "change", [{"learning_rate": 0.5}, {"divergence": "forward_kl"}], ids=["learning_rate", "loss"]
)
def test_another_run_is_refused_by_the_names_of_its_keys(run, change):
    [(key, value)] = change.items()
    with pytest.raises(ValueError, match=f"{key} was {ASKED[key]!r} and is {value!r}"):
        start_run(run, "true", ASKED | change)


def test_how_far_it_goes_and_what_it_saves_may_change(run):
    changed = ASKED | {"max_steps": 16, "save_steps": 4, "logging_steps": 1}
    assert start_run(run, "true", changed) == run / "checkpoint-4"


@pytest.mark.parametrize(
    "change",
    [
        {"dataloader_drop_last": True},
        {"dataloader_in_order": False},
        {"student_share_step": 0.1, "eval_steps": 4},
        {"student_share_step": 0.1, "test_dataset": "other"},
        {"student_share_step": 0.1, "num_test_conversations": 9},
    ],
    ids=lambda change: list(change)[-1],
)
def test_what_changes_the_training_by_another_name_is_refused(run, change):
    share = {name: change[name] for name in ("student_share_step",) if name in change}
    others = {
        "dataloader_drop_last": False, "dataloader_in_order": True, "eval_steps": 2,
        "test_dataset": None, "num_test_conversations": 8, "student_share_step": 0.0,
    }  # fmt: skip
    (run / "config.yaml").write_text(yaml.safe_dump(ASKED | others | share))
    key = list(change)[-1]
    with pytest.raises(ValueError, match=f"as another run: {key} was"):
        start_run(run, "true", ASKED | others | change)
    if share:  # without a step the evaluations only measure
        (run / "config.yaml").write_text(yaml.safe_dump(ASKED | others))
        without = ASKED | others | {key: change[key]}
        assert start_run(run, "true", without) == run / "checkpoint-4"


@pytest.fixture
def finished(run):
    """A run that has ended, and kept no checkpoint."""
    for checkpoint in run.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    (run / "model.safetensors").write_text("the final model")
    (run / "metrics.jsonl").write_text(json.dumps({"step": 8, "loss": 2.0}) + "\n")
    mark_whole(run)
    return run


def test_a_finished_run_without_checkpoints_is_not_trained_over(finished):
    with pytest.raises(
        ValueError, match=r"already holds a finished run: give another --output_dir$"
    ):
        start_run(finished, None, ASKED)
    with pytest.raises(ValueError, match="as another run: divergence was"):
        start_run(finished, "true", ASKED | {"divergence": "forward_kl"})
    assert start_run(finished, "true", ASKED) is None
    assert is_finished(finished, ASKED)
    with pytest.raises(ValueError, match="finished with max_steps 8, and has no checkpoint"):
        is_finished(finished, ASKED | {"max_steps": 16})
    (finished / "model.safetensors").write_text("another model")
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        is_finished(finished, ASKED)


def test_a_run_that_goes_on_is_not_finished(run):
    assert not is_finished(run, ASKED)
    mark_whole(run)  # with checkpoints it goes on from the last one
    assert not is_finished(run, ASKED)


def test_a_checkpoint_without_an_optimizer_is_refused(run):
    for folder in run.glob("checkpoint-*"):
        (folder / "optimizer.pt").unlink()
        mark_whole(folder)
    with pytest.raises(ValueError, match="checkpoint-4 holds a model without its optimizer"):
        start_run(run, "true", ASKED)


@pytest.mark.parametrize(
    "name", ["README.md", "config.yaml", "tokenizer_config.json", "manifest.json", "versions.json"]
)
def test_files_that_no_run_wrote_are_not_written_over(name, tmp_path):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=f"holds {name}, which no run wrote there"):
        check_no_other_files(tmp_path)


def test_other_files_do_not_matter_and_a_run_s_own_neither(tmp_path):
    check_no_other_files(tmp_path / "new")
    for name in ("notes.txt", "train.py", ".lock"):
        (tmp_path / name).write_text("mine")
    check_no_other_files(tmp_path)
    record_run(tmp_path, ASKED)  # killed right after
    check_no_other_files(tmp_path)


def test_a_hub_model_that_has_moved_on_is_asked_for_by_its_revision(run):
    then, now = ({"name": "a/b", "commit": commit} for commit in ("c0ffee", "decaf"))
    record_run(run, ASKED, {"teacher": then})
    with pytest.raises(ValueError, match=r"another model \(--teacher_revision c0ffee is the one"):
        check_same_inputs(run, {"teacher": now})
    (run / "config.yaml").write_text(yaml.safe_dump(ASKED | {"teacher_revision": None}))
    pinned = ASKED | {"teacher_revision": "c0ffee"}
    assert start_run(run, "true", pinned) == run / "checkpoint-4"


def test_lora_weights_do_not_go_on_on_another_base(run):
    record_run(run, ASKED, {"base": {"name": "base", "sha256": "abc"}})
    with pytest.raises(ValueError, match="another run: the base of its LoRA weights is another"):
        check_same_inputs(run, {"base": {"name": "base", "sha256": "def"}})


def test_another_number_of_processes_is_another_run(run, monkeypatch):
    record_run(run, ASKED, {"rows": "abc"})
    check_same_inputs(run, {"rows": "abc"})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="another number of processes"):
        check_same_inputs(run, {"rows": "abc"})


def test_a_start_that_failed_before_its_first_step_binds_no_other(tmp_path, monkeypatch):
    record_run(tmp_path, ASKED, {"rows": "abc"})  # and then there was no memory left
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_same_inputs(tmp_path, {"rows": "others"})


def test_a_run_from_before_inputs_were_recorded_goes_on(run):
    check_same_inputs(run, {"rows": "abc"})  # there is no versions.json
    record_run(run, ASKED)
    check_same_inputs(run, {"rows": "abc", "teacher": {"name": "p"}})


def test_a_run_that_failed_before_its_first_step_does_not_own_its_folder(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(ASKED))
    (tmp_path / "metrics.jsonl").write_text("")
    assert not has_trained(tmp_path)
    assert start_run(tmp_path, None, ASKED | {"learning_rate": 0.5}) is None
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    with pytest.raises(ValueError, match="already holds a run"):
        start_run(tmp_path, None, ASKED)


def test_missing_settings_of_a_finished_run_are_named(run):
    (run / "config.json").write_text("{}")  # of its model
    mark_whole(run)
    (run / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"config\.yaml is missing"):
        check_no_other_files(run)
