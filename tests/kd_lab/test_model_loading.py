"""A model is loaded whole or refused by name; LoRA weights are their base with them merged in."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from kd_lab.model_loading import load_causal_lm, load_tokenizer
from kd_lab.models import Model
from kd_lab.runs.marker import mark_whole
from tests.helpers.toy_pair import TOKENIZER, toy_model

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    toy_model(32).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def without(folder: Path, name: str) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights[name]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def test_a_whole_model_is_loaded_as_it_was_saved(folder):
    for name, tensor in load_causal_lm(str(folder)).state_dict().items():
        torch.testing.assert_close(tensor, toy_model(32).state_dict()[name], rtol=0, atol=0)


def change_config(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def as_bert(folder: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    BertForMaskedLM(BertConfig(intermediate_size=16, **shape)).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda f: without(f, "model.layers.0.mlp.down_proj.weight"),
            "holds no model.layers.0.mlp",
        ),
        (lambda f: without(f, "model.norm.weight"), "holds no model.norm.weight, which"),
        (lambda f: change_config(f, num_hidden_layers=3), "num_hidden_layers"),
        (lambda f: change_config(f, hidden_size=48), "cannot be read: "),
        (lambda f: change_config(f, model_type="t5"), "no causal language model"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read: "),
        (lambda f: (f / "config.json").write_text("[]"), "cannot be read: "),
        (lambda f: (f / WEIGHTS).write_bytes(b""), "cannot be read: "),
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:900]), "cannot be read: "),
        (lambda f: (f / WEIGHTS).write_text("version https://git-lfs"), "cannot be read: "),
    ],
)
def test_a_model_that_is_not_whole_is_one_line_with_its_name(folder, damage, said):
    damage(folder)
    with pytest.raises(ValueError, match=re.escape(said)) as refusal:
        load_causal_lm(str(folder))
    assert str(refusal.value).startswith(str(folder))
    assert "\n" not in str(refusal.value)


def test_a_byte_that_flipped_since_the_run_is_found_by_the_marker(folder):
    mark_whole(folder)
    load_causal_lm(str(folder))
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-5] ^= 16  # of a weight: the file still reads
    (folder / WEIGHTS).write_bytes(content)
    for read in (load_causal_lm, lambda name: Model(name).identity):
        with pytest.raises(ValueError, match=f"{WEIGHTS} is damaged: its SHA-256"):
            read(str(folder))


def test_a_folder_whose_run_was_cut_off_is_no_model(folder):
    (folder / "config.yaml").write_text("alpha: 0\n")
    with pytest.raises(ValueError, match="is not whole: its run was cut off"):
        Model(str(folder))
    adapter = folder / "adapter"
    adapter.mkdir()
    settings = {"base_model_name_or_path": str(folder)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    (adapter / "adapter_model.safetensors").touch()
    with pytest.raises(
        ValueError, match=r"adapter holds LoRA weights, and of their base: .* not whole"
    ):
        Model(str(adapter)).check()


def test_a_broken_tokenizer_is_one_line(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read: "):
        load_tokenizer(str(folder))


@pytest.mark.parametrize(
    "content",
    [
        b"{bad",
        b"[]",
        b"\xef\xbb\xbf{}",
        b'{"eos_token_id": "a"}',
        b'{"eos_token_id": [2, true]}',
    ],
)
def test_end_tokens_that_cannot_be_read_are_not_passed_over(folder, content):
    Model(str(folder)).check()
    (folder / "generation_config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"generation_config\.json cannot be read: "):
        Model(str(folder)).check()


def test_a_byte_order_mark_is_named_with_its_file(folder):
    mark = b"\xef\xbb\xbf"
    (folder / "tokenizer.json").write_bytes(mark + (folder / "tokenizer.json").read_bytes())
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read: .*BOM"):
        load_tokenizer(str(folder))


def test_lora_weights_are_their_base_with_them_merged_in(folder, tmp_path):
    torch.manual_seed(3)
    base = load_causal_lm(str(folder))
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", lora_alpha=8))
    for name, tensor in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, std=0.1)
    tuned.base_model.model.name_or_path = str(folder)
    tuned.peft_config["default"].base_model_name_or_path = str(folder)
    tuned.save_pretrained(tmp_path / "lora")
    TOKENIZER.save_pretrained(tmp_path / "lora")
    ids = torch.tensor([[3, 5, 7, 9]])
    with torch.no_grad():
        expected = tuned(input_ids=ids).logits
        model = Model(str(tmp_path / "lora"))
        torch.testing.assert_close(model.load()(input_ids=ids).logits, expected)
    assert model.head_rows == base.config.vocab_size
    assert model.identity["sha256"] != Model(str(folder)).identity["sha256"]
