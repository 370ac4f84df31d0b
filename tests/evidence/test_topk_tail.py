"""What a teacher's k likeliest tokens keep, on small models with random weights."""

import json

import pytest

from evidence.topk_tail import measure, topk_tail_study
from kd_lab.data.packed_rows import PackedRows
from kd_lab.models import Model
from tests.helpers.toy_pair import ROWS, TOKENIZER, toy_model, toy_rows


def test_the_study(tmp_path):
    for name, width in (("student", 32), ("teacher", 48)):
        toy_model(width).save_pretrained(tmp_path / name)
        TOKENIZER.save_pretrained(tmp_path / name)
    student, teacher = (
        Model(str(tmp_path / name), None, "float32") for name in ("student", "teacher")
    )
    rows, advanced = PackedRows.of(toy_rows(4)), []
    told = topk_tail_study(student, teacher, rows, (1, 8), advanced.append)
    assert json.loads(json.dumps(told)) == told
    assert sum(advanced) == 2 * rows.predicts_trained().sum()
    assert told["bytes_per_token"] == {"1": 8, "8": 36}
    assert told["hidden_bytes_per_token"] == 96
    assert told["vocab_size"] == len(TOKENIZER) < ROWS
    near, far = (told["students"][name]["forward_kl"]["mean"] for name in ("near", "far"))
    assert 0 < near < far


def test_the_study_refuses_a_folder_that_is_not_finished(tmp_path):
    with pytest.raises(ValueError, match="holds no finished token_fkl-1"):
        measure(tmp_path)
