"""Where in a run the gaps on head and tail are measured."""

import copy

import pytest
import torch

from evidence.head_tail_gaps import measure_gaps
from evidence.heads_and_tails import WatchGaps, by_metric, fit, measure
from kd_lab.data.packed_rows import PackedRows
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

VOCABULARY = len(TOKENIZER)


def test_a_run_is_watched_at_its_steps_and_learns():
    teacher, student, rows = toy_model(seed=1).eval(), toy_model(seed=2), toy_rows(40)
    before = copy.deepcopy(student.state_dict())
    held_out = PackedRows.of(toy_rows(8, seed=1))
    watch = WatchGaps(teacher, held_out, VOCABULARY, at=(0, 2, 6))
    settings = {"learning_rate": 1e-2, "seed": 1, "batch_size": 8}
    learnt = fit(student, rows, TOKENIZER, steps=6, teacher=teacher, watch=watch, **settings)

    ends = [
        measure_gaps(model, teacher, held_out, vocab_size=VOCABULARY)
        for model in (student.eval(), learnt)
    ]
    assert len(watch.gaps) == 3
    assert [watch.gaps[0], watch.gaps[-1]] == [pytest.approx(end, rel=1e-5) for end in ends]
    assert watch.gaps[-1]["forward_kl"] < watch.gaps[1]["forward_kl"] < ends[0]["forward_kl"]
    assert all(torch.equal(before[name], x) for name, x in student.state_dict().items())  # a copy
    again = fit(learnt, rows, TOKENIZER, steps=2, teacher=teacher, watch=watch, **settings)
    assert watch.gaps[3] == pytest.approx(ends[1], rel=1e-5)  # goes on from what it was given
    gaps = measure_gaps(again, teacher, held_out, vocab_size=VOCABULARY)
    assert watch.gaps[4] == pytest.approx(gaps, rel=1e-5)
    assert by_metric({"a": [watch.gaps]})["a"]["tail"] == [[x["tail"] for x in watch.gaps]]


def test_what_is_no_study_is_refused_before_a_model_loads(tmp_path):
    with pytest.raises((ValueError, OSError), match=str(tmp_path / "train_answers")):
        measure(tmp_path)
