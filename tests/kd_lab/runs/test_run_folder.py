"""What a run leaves behind, in particular when it is cut off; a real Trainer on a tiny model."""

import json

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, Trainer
from transformers.trainer_utils import set_seed

from kd_lab.cli import parse
from kd_lab.runs.model_card import model_card
from kd_lab.runs.resuming import last_whole_checkpoint, start_run
from kd_lab.runs.run_files import read_metrics, resolved_config
from kd_lab.runs.run_folder import (
    MarkWholeCheckpoints,
    MetricsWriter,
    finish_run,
    record_run,
)

ROWS = [{"input_ids": [i, i + 1, i + 2], "labels": [i, i + 1, i + 2]} for i in range(12)]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 1}


def arguments(folder, **settings):
    options = {
        "output_dir": folder,
        "model_shape": json.dumps(SHAPE),
        "alpha": 0,
        "max_steps": 6,
        "save_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "train_sampling_strategy": "random",
        **settings,
    }
    return parse("train", [f"--{key}={value}" for key, value in options.items()])


class CutOff(Exception):
    """Stands for kill -9."""


class TrainerCutOffWhileSaving(Trainer):
    """Dies in the middle of writing one checkpoint: the model is there, the random state is not."""

    cut_at: int | None = None

    def _save_rng_state(self, output_dir):
        if self.state.global_step == self.cut_at:
            raise CutOff
        super()._save_rng_state(output_dir)


def train(folder, cut_at=None, resume=None, **settings):
    of = arguments(folder, **settings)
    start_from = start_run(folder, resume, resolved_config(*of))
    set_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2,
        )
    )  # fmt: skip
    trainer = TrainerCutOffWhileSaving(
        model, of[-1], train_dataset=ROWS, callbacks=[MetricsWriter(folder), MarkWholeCheckpoints()]
    )
    trainer.cut_at = cut_at
    record_run(folder, resolved_config(*of))
    of[-1].remove_unused_columns = False  # transformers' own trainer stands for ours
    trainer.train(resume_from_checkpoint=start_from and str(start_from))
    trainer.save_model(str(folder))
    finish_run(folder)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder)
    return folder


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_a_run_cut_off_while_saving_ends_like_one_that_was_not(tmp_path, whole_run):
    with pytest.raises(CutOff):
        train(tmp_path, cut_at=4)
    assert (tmp_path / "checkpoint-4" / "model.safetensors").exists()
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-2"

    train(tmp_path, resume="true")
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6, 6]
    losses = [line["loss"] for line in read_metrics(tmp_path)[:6]]
    assert losses == [line["loss"] for line in read_metrics(whole_run)[:6]]
    for name, tensor in weights(whole_run).items():
        assert torch.equal(weights(tmp_path)[name], tensor), name
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert len(versions["earlier_starts"]) == 1


@pytest.mark.parametrize("change", ["removed", "a digit", "no JSON"])
def test_lines_of_metrics_that_changed_are_the_checkpoint_s_again(
    change, tmp_path, whole_run, capsys
):
    with pytest.raises(CutOff):
        train(tmp_path, cut_at=4)
    path = tmp_path / "metrics.jsonl"
    text = path.read_text()
    path.unlink()
    if change == "no JSON":
        path.write_text(text.replace('"loss"', "loss", 1))
        with pytest.raises(ValueError, match=r"metrics.jsonl:1: not JSON"):
            train(tmp_path, resume="true")
        return
    if change == "a digit":
        path.write_text(text.replace('"epoch": 0.', '"epoch": 7.', 1))
    train(tmp_path, resume="true")
    assert f"{path} is not what was written" in capsys.readouterr().err
    losses = [line["loss"] for line in read_metrics(tmp_path)[:6]]
    assert losses == [line["loss"] for line in read_metrics(whole_run)[:6]]


def test_a_changed_record_of_versions_is_refused(tmp_path):
    record_run(tmp_path, {"seed": 0})
    path = tmp_path / "versions.json"
    path.write_text(path.read_text().replace('"processes": 1', '"processes": 2'))
    with pytest.raises(ValueError, match=r"versions.json is not what was written"):
        record_run(tmp_path, {"seed": 0})


def test_a_run_that_goes_on_is_not_vouched_for_by_its_old_marker(tmp_path):
    train(tmp_path)
    assert (tmp_path / "complete").exists()
    record_run(tmp_path, resolved_config(*arguments(tmp_path, max_steps=8)))
    assert not (tmp_path / "complete").exists()  # killed here, config.yaml would seem damaged


def test_the_old_checkpoint_stays_until_the_new_one_is_whole(tmp_path):
    with pytest.raises(CutOff):
        train(tmp_path, cut_at=4, save_total_limit=1)
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    train(tmp_path, resume="true", save_total_limit=1)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]


def test_a_checkpoint_written_again_is_not_whole_meanwhile(tmp_path):
    train(tmp_path)
    with pytest.raises(CutOff):
        train(tmp_path, cut_at=6, resume=str(tmp_path / "checkpoint-4"))
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-4"


def test_nothing_to_resume_starts_from_the_first_step(tmp_path):
    with pytest.raises(CutOff):
        train(tmp_path, cut_at=2)
    assert start_run(tmp_path, "true", {}) is None
    train(tmp_path, resume="true")
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6, 6]


def test_a_finished_run_that_goes_on_writes_nothing_twice(tmp_path):
    train(tmp_path)
    train(tmp_path, resume="true")
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6, 6]


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_that_holds_a_run_is_refused(tmp_path, finished):
    if finished:
        train(tmp_path)
    else:
        with pytest.raises(CutOff):
            train(tmp_path, cut_at=2)
    what = "a finished run" if finished else "a run"
    with pytest.raises(ValueError, match=f"already holds {what}: give another --output_dir"):
        start_run(tmp_path, None, {})


def test_a_checkpoint_that_is_missing_or_cut_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such checkpoint"):
        start_run(tmp_path, str(tmp_path / "checkpoint-2"), {})
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(ValueError, match="is not whole"):
        start_run(tmp_path, str(tmp_path / "checkpoint-2"), {})


def test_the_resolved_config_is_a_recipe_of_the_same_run(tmp_path, whole_run):
    again = parse("train", ["--config", str(whole_run / "config.yaml")])
    assert resolved_config(*again) == yaml.safe_load((whole_run / "config.yaml").read_text())
    assert again[-1].max_steps == 6


def test_the_card_tells_how_the_model_was_made(whole_run):
    for folder in (whole_run, whole_run / "checkpoint-2"):
        card = (folder / "README.md").read_text()
        assert yaml.safe_load(card.split("---")[1])["library_name"] == "transformers"
        assert "Supervised fine-tuning" in card
        assert "an untrained Qwen2 (hidden_size 32, num_hidden_layers 1)" in card
    assert "| Steps | 6 |" in (whole_run / "README.md").read_text()
    assert "| Steps | 2 |" in (whole_run / "checkpoint-2" / "README.md").read_text()


def test_the_card_of_a_policy_gradient_beside_sft_names_its_divergence(tmp_path):
    mixed = {
        "alpha": 0, "prefixes": "dataset", "student_share": 0.5, "policy_gradient": True,
        "divergence": "reverse_kl", "teacher_model_name_or_path": "p",
    }  # fmt: skip
    config = resolved_config(*arguments(tmp_path, **mixed))
    versions = {"python": "3", "libraries": {}, "processes": 1}
    card = model_card(config, versions, [])
    assert "| Divergence | reverse KL" in card
    assert "| Temperature | 1 |" in card
    plain = model_card(resolved_config(*arguments(tmp_path)), versions, [])
    assert "| Divergence |" not in plain
