"""What a student may be: a shape of known keys, and nothing that would be filled in by defaults."""

import pytest
import torch

from kd_lab import student as of_student
from kd_lab.student import StudentArguments, check_student, load_student, loaded_dtype
from tests.helpers.toy_pair import TOKENIZER, toy_model


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"hiden_size": 32}, "unknown key 'hiden_size'; did you mean 'hidden_size'"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, not 0"),
        ({}, "must be a mapping of Qwen2's keys"),
        ("[1]", "must be a mapping of Qwen2's keys"),
        ("{bad", "model_shape is not JSON"),
    ],
)
def test_a_shape_that_is_none_is_named(shape, said):
    with pytest.raises(ValueError, match=said):
        StudentArguments(model_shape=shape)


SHAPE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 2}  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "loaded"),
    [(None, "float32"), ("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")],
)
def test_a_shape_is_made_in_the_dtype_that_is_asked_for(dtype, loaded):
    student = StudentArguments(model_shape=SHAPE, dtype=dtype)
    assert loaded_dtype(student) == getattr(torch, loaded)
    assert load_student(student, TOKENIZER).dtype == getattr(torch, loaded)


@pytest.mark.parametrize("keep_every", [1, 2])
@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16])
def test_auto_is_the_dtype_of_the_saved_weights(tmp_path, saved, keep_every):
    toy_model(32, 2, seed=0).to(saved).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    student = StudentArguments(str(tmp_path), dtype="auto", keep_every=keep_every)
    assert loaded_dtype(student) == saved
    loaded = load_student(student, TOKENIZER)
    assert {weight.dtype for weight in loaded.parameters()} == {saved}
    assert len(loaded.get_decoder().layers) == 2 // keep_every


def test_weights_are_compared_with_the_memory_in_their_own_dtype(monkeypatch):
    size = check_student(StudentArguments(model_shape=SHAPE), TOKENIZER)
    monkeypatch.setattr(of_student, "memory", lambda: 3.0 * size)
    assert check_student(StudentArguments(model_shape=SHAPE, dtype="bfloat16"), TOKENIZER) == size
    for dtype in ("float32", "auto"):  # a shape is made in float32
        with pytest.raises(ValueError, match=r"model_shape: a student .* weights in float32, and"):
            check_student(StudentArguments(model_shape=SHAPE, dtype=dtype), TOKENIZER)
