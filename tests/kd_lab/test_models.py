"""A model by its name; nothing is read before it is needed."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from kd_lab.data.toy_tokenizer import toy_tokenizer
from kd_lab.model_identity import model_identity
from kd_lab.models import Model, check_attention, check_dtype, shared_size
from tests.helpers.cache_problem import HEAD_ROWS, save_teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("models") / "teacher", toy_tokenizer())


def test_a_model_is_what_its_folder_holds(folder):
    model = Model(str(folder))
    assert model.identity == model_identity(str(folder))
    assert model.head_rows == HEAD_ROWS
    assert model.vocab_size == shared_size(model, model) == len(toy_tokenizer())
    assert model.tokenizer.get_vocab() == toy_tokenizer().get_vocab()
    assert model.dtype_name == "float32"
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for name, weight in model.model.state_dict().items():
        torch.testing.assert_close(weight.cpu(), loaded[name], rtol=0, atol=0)
    assert not model.model.training
    assert not any(weight.requires_grad for weight in model.model.parameters())


def test_answers_end_with_the_tokenizer_s_token_and_those_of_the_generation_config(
    folder, tmp_path
):
    own = toy_tokenizer().eos_token_id
    shutil.copytree(folder, tmp_path / "copy")
    config = tmp_path / "copy" / "generation_config.json"
    for said, ends in ((None, [own]), (5, sorted({5, own})), ([7, own, 3], sorted({3, 7, own}))):
        config.write_text(json.dumps({} if said is None else {"eos_token_id": said}))
        assert Model(str(tmp_path / "copy")).end_tokens == ends
    config.unlink()
    assert Model(str(tmp_path / "copy")).end_tokens == [own]


def test_a_model_is_loaded_in_its_dtype(folder):
    narrow = Model(str(folder), dtype="bfloat16")
    assert narrow.dtype_name == "bfloat16"
    assert narrow.load().dtype == torch.bfloat16


def test_a_folder_without_a_model_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        Model(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match="holds no model: it has no weights"):
        Model(str(tmp_path))


def test_an_unknown_dtype_is_refused_by_its_key():
    check_dtype("teacher_dtype", "auto")
    with pytest.raises(ValueError, match=r"teacher_dtype must be one of .* not 'half'"):
        check_dtype("teacher_dtype", "half")


def test_a_model_is_loaded_with_its_attention(folder):
    assert Model(str(folder), attn_implementation="eager").load().config._attn_implementation == (
        "eager"
    )
    with pytest.raises(ValueError, match=r"teacher: attn_implementation flash_attention_2 is not"):
        Model(str(folder), attn_implementation="flash_attention_2").check()


def test_an_unknown_attention_is_refused_by_its_key():
    check_attention("teacher_attn_implementation", None)
    check_attention("teacher_attn_implementation", "kernels-community/flash-attn3")
    with pytest.raises(ValueError, match=r"teacher_attn_implementation must be one of .* 'flash'"):
        check_attention("teacher_attn_implementation", "flash")
