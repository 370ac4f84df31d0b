"""A model is known by its contents, a tokenizer by its ids."""

import json
import shutil

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from kd_lab.data.toy_tokenizer import toy_tokenizer
from kd_lab.model_identity import (
    check_same_teacher,
    model_identity,
    recorded_identity,
    tokenizer_hash,
    trained_base,
)
from kd_lab.runs.marker import mark_whole
from kd_lab.runs.run_folder import record_run
from tests.helpers.cache_problem import save_teacher
from tests.helpers.toy_pair import toy_model


@pytest.fixture(scope="module")
def tokenizer():
    return toy_tokenizer()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, tokenizer):
    return save_teacher(tmp_path_factory.mktemp("teacher"), tokenizer)


def test_a_teacher_is_known_by_its_contents(teacher, tokenizer, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(teacher, moved)
    (moved / "optimizer.pt").write_bytes(b"not the model's")
    check_same_teacher(model_identity(str(teacher)), model_identity(str(moved)))
    save_teacher(moved, tokenizer, seed=5)
    with pytest.raises(ValueError, match=r"comes from the teacher .* given now is moved \(SHA-256"):
        check_same_teacher(model_identity(str(teacher)), model_identity(str(moved)))
    with pytest.raises(ValueError, match=r"from the teacher a/b \(commit 12\)"):
        check_same_teacher({"name": "a/b", "commit": "12"}, {"name": "a/b", "commit": "13"})
    with pytest.raises(ValueError, match=r"given now is moved"):
        check_same_teacher({"name": "a/b", "commit": "12"}, model_identity(str(moved)))
    (moved / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"moved holds no model: it has no weights"):
        model_identity(str(moved))


def test_an_adapter_is_known_by_its_base_too(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    toy_model(seed=1).save_pretrained(base)
    get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj"])
    ).save_pretrained(adapter)
    before = model_identity(str(adapter))
    assert before["base_sha256"] == model_identity(str(base))["sha256"]
    assert recorded_identity(adapter) == {"name": "adapter"}  # nothing is marked
    for folder in (base, adapter):
        mark_whole(folder)
    assert recorded_identity(adapter) == before
    (base / "complete").unlink()
    toy_model(seed=2).save_pretrained(base)
    now = model_identity(str(adapter))
    assert now["sha256"] == before["sha256"]
    with pytest.raises(ValueError, match=r"the teacher adapter .* on a base of .* given now"):
        check_same_teacher(before, now)
    check_same_teacher({"name": "adapter", "sha256": before["sha256"]}, now)  # stored long ago


def test_lora_weights_of_a_run_need_the_base_of_their_training(tmp_path):
    base, run = tmp_path / "base", tmp_path / "run"
    toy_model(seed=1).save_pretrained(base)
    trained = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj"])
    )
    record_run(run, {}, {"base": model_identity(str(base))})
    for folder in (run, run / "checkpoint-2"):
        trained.save_pretrained(folder)
        mark_whole(folder)
        assert model_identity(str(folder))["base_sha256"] == trained_base(folder)["sha256"]
    assert recorded_identity(run) == model_identity(str(run))  # although the base has no marker
    toy_model(seed=2).save_pretrained(base)
    told = r"was trained on another base than .*base is now: on base \(SHA-256 .* train again"
    for folder in (run, run / "checkpoint-2"):
        with pytest.raises(ValueError, match=told):
            model_identity(str(folder))
    mark_whole(base)
    with pytest.raises(ValueError, match=told):
        recorded_identity(run)
    record_run(run, {})  # a run of an earlier version has no base on record
    mark_whole(run)
    assert trained_base(run) == {}
    assert recorded_identity(run)["base_sha256"] == model_identity(str(base))["sha256"]


def test_an_adapter_on_a_model_of_the_hub_is_known_by_the_commit(tmp_path, monkeypatch):
    commits = {None: "of main", "v1": "of v1"}
    monkeypatch.setattr("kd_lab.model_identity._hub_commit", lambda name, at: commits[at])
    settings = {"base_model_name_or_path": "owner/x", "revision": None}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter_model.safetensors").touch()
    plain = model_identity(str(tmp_path))
    assert plain["base_commit"] == "of main"
    check_same_teacher({"name": "adapter", "sha256": plain["sha256"]}, plain)  # stored long ago
    record_run(tmp_path, {}, {"base": {"name": "owner/x", "commit": "of v1"}})
    mark_whole(tmp_path)
    assert recorded_identity(tmp_path)["base_commit"] == "of v1"  # no hub is asked
    told = r"x is now: on owner/x \(commit of v1\), now .*of main.* \(as \"revision\" in adapter_"
    with pytest.raises(ValueError, match=told):
        model_identity(str(tmp_path))
    (tmp_path / "complete").unlink()
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "revision": "v1"}))
    mark_whole(tmp_path)
    assert model_identity(str(tmp_path))["base_commit"] == "of v1"


def test_a_tokenizer_is_known_by_its_ids(teacher, tokenizer):
    assert tokenizer_hash(AutoTokenizer.from_pretrained(teacher)) == tokenizer_hash(tokenizer)
    other = toy_tokenizer()
    other(["a", "a b"], padding=True, truncation=True, max_length=2)  # leaves traces inside it
    other.chat_template = "{{ messages }}"
    assert tokenizer_hash(other) == tokenizer_hash(tokenizer)
    other.eos_token = "<|endoftext|>"
    assert tokenizer_hash(other) != tokenizer_hash(tokenizer)
