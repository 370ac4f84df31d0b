"""A model is known by its contents, a tokenizer by its ids."""

import shutil

import pytest
from transformers import AutoTokenizer

from kd_lab.data.toy_tokenizer import toy_tokenizer
from kd_lab.model_identity import check_same_teacher, model_identity, tokenizer_hash
from tests.helpers.cache_problem import save_teacher


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


def test_a_tokenizer_is_known_by_its_ids(teacher, tokenizer):
    assert tokenizer_hash(AutoTokenizer.from_pretrained(teacher)) == tokenizer_hash(tokenizer)
    other = toy_tokenizer()
    other(["a", "a b"], padding=True, truncation=True, max_length=2)  # leaves traces inside it
    other.chat_template = "{{ messages }}"
    assert tokenizer_hash(other) == tokenizer_hash(tokenizer)
    other.eos_token = "<|endoftext|>"
    assert tokenizer_hash(other) != tokenizer_hash(tokenizer)
