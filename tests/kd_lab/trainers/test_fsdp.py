"""FSDP2 as accelerate sets it up by default, on two CPU processes with bfloat16 parameters."""

import contextlib
import json

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from transformers import AutoModelForCausalLM

from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.token_distil import TokenDistilTrainer
from tests.helpers.forked_processes import two_processes
from tests.helpers.fsdp_worker import train_and_save
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows


@pytest.mark.slow
def test_a_model_is_saved_and_the_figures_keep_their_digits(tmp_path):
    out, folder = tmp_path / "found.json", tmp_path / "run"
    # Gloo may abort a process that is already done, so that what was written counts.
    with contextlib.suppress(ChildFailedError):
        two_processes(train_and_save, out, folder, logs=tmp_path / "log")
    assert out.exists(), [file.read_text()[-3000:] for file in tmp_path.rglob("stderr.log")]
    found = json.loads(out.read_text())
    assert found["distributed_type"] == "FSDP"
    assert found["is_sharded"]
    assert "SHARDED_STATE_DICT" in found["state_dict_type"]

    trained = torch.load(out.with_suffix(".pt"))
    saved = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    assert saved.keys() == trained.keys()
    for name, weight in trained.items():
        assert torch.equal(saved[name].to(weight.dtype), weight), name
    start = dict(toy_model(32, 1, seed=1).named_parameters())
    assert not torch.equal(start["lm_head.weight"], trained["lm_head.weight"].float())

    for step in found["steps"]:
        parts = (step["divergence"] + step["cross_entropy"]) / 2
        assert step["loss"] == pytest.approx(parts, rel=1e-6)  # bfloat16 holds three digits
        assert torch.tensor(step["divergence"]).bfloat16().item() != step["divergence"]


def test_a_run_that_wrote_no_model_does_not_end_well(tmp_path):
    config = DistilConfig(output_dir=str(tmp_path), use_cpu=True, alpha=0.0)
    trainer = TokenDistilTrainer(
        toy_model(), None, config, train_dataset=toy_rows(4), processing_class=TOKENIZER
    )
    trainer.save_model()
    trainer.save_model(str(tmp_path / "again"))
    trainer._save = lambda *_: None  # as transformers does where FSDP's state dict is sharded
    with pytest.raises(OSError, match="none holds no model although it was saved"):
        trainer.save_model(str(tmp_path / "none"))
