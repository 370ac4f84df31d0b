"""The gaps on head and tail against sums written out, and where in a run they are measured."""

import copy
import math

import numpy as np
import pytest
import torch
from toy_pair import TOKENIZER, toy_model, toy_rows

from kd_lab.evaluation.heads_and_tails import head_and_tail_gaps, measure_gaps
from kd_lab.study.heads_and_tails import WatchGaps, by_metric, fit, head_lead, main
from kd_lab.teacher.packed_rows import PackedRows

VOCABULARY = len(TOKENIZER)


def by_hand(p: list[float], q: list[float], mu: float) -> tuple[float, float, float, float]:
    """Head, tail, excess and lack of one position, token by token."""
    order = sorted(range(len(p)), key=lambda token: -p[token])
    head, mass = set(), 0.0
    for token in order:
        if mass >= mu:
            break
        head.add(token)
        mass += p[token]
    on_head = math.fsum(abs(p[v] - q[v]) for v in head)
    excess = math.fsum(q[v] - p[v] for v in range(len(p)) if v not in head and q[v] > p[v])
    lack = math.fsum(p[v] - q[v] for v in range(len(p)) if v not in head and q[v] < p[v])
    return on_head, excess + lack, excess, lack


@pytest.mark.parametrize("mu", [0.3, 0.5, 0.9])
def test_gaps_are_the_sums(mu):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 40, generator=generator, dtype=torch.float64) * 2
    p, q = logits.log_softmax(-1)
    gaps = torch.stack(head_and_tail_gaps(p, q, mu))  # [4, 7]
    expected = [by_hand(*pair, mu) for pair in zip(p.exp().tolist(), q.exp().tolist(), strict=True)]
    np.testing.assert_allclose(gaps.T, expected, rtol=1e-12)


def test_equal_laws_have_no_gap_and_all_of_it_is_head_or_tail():
    p, q = torch.randn(2, 5, 30).log_softmax(-1)
    assert torch.stack(head_and_tail_gaps(p, p)).abs().max() == 0
    gaps = head_and_tail_gaps(p, q)
    torch.testing.assert_close(gaps.head + gaps.tail, (p.exp() - q.exp()).abs().sum(-1))


def test_over_rows_they_are_means_over_trained_tokens():
    student, teacher = toy_model(seed=1).eval(), toy_model(48, seed=2).eval()
    rows = toy_rows(9)
    measured = measure_gaps(
        student, teacher, PackedRows.of(rows), vocab_size=VOCABULARY, tokens_per_batch=64
    )
    found = []
    for row in rows:
        ids = torch.tensor(row["input_ids"])
        with torch.no_grad():
            p, q = (
                model(ids[None]).logits[0, :-1, :VOCABULARY].double().softmax(-1)
                for model in (teacher, student)
            )
        trained = torch.tensor(row["labels"])[1:] != -100
        for pair in zip(p[trained].tolist(), q[trained].tolist(), strict=True):
            found.append(by_hand(*pair, 0.5))
    names = ("head", "tail", "tail_excess", "tail_lack")
    np.testing.assert_allclose([measured[name] for name in names], np.mean(found, 0), rtol=1e-4)


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
    assert len(watch.found) == 3
    assert [watch.found[0], watch.found[-1]] == [pytest.approx(end, rel=1e-5) for end in ends]
    assert watch.found[-1]["forward_kl"] < watch.found[1]["forward_kl"] < ends[0]["forward_kl"]
    assert all(torch.equal(before[name], x) for name, x in student.state_dict().items())  # a copy
    again = fit(learnt, rows, TOKENIZER, steps=2, teacher=teacher, watch=watch, **settings)
    assert watch.found[3] == pytest.approx(ends[1], rel=1e-5)  # goes on from what it was given
    gaps = measure_gaps(again, teacher, held_out, vocab_size=VOCABULARY)
    assert watch.found[4] == pytest.approx(gaps, rel=1e-5)
    assert by_metric({"a": [watch.found]})["a"]["tail"] == [[x["tail"] for x in watch.found]]


def test_the_head_is_ahead_where_less_of_its_gap_is_left():
    curves = {"head": [[0.4, 0.2], [0.5, 0.5]], "tail": [[0.8, 0.6], [0.5, 0.2]]}
    np.testing.assert_allclose(head_lead(curves), [[0, 25], [0, -60]])


def test_what_is_no_study_is_refused_before_a_model_loads(tmp_path, capsys):
    assert main([str(tmp_path), "--output", str(tmp_path / "out.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kd_lab.study.heads_and_tails: error: ")
    assert str(tmp_path / "train_answers") in error
    assert not (tmp_path / "out.json").exists()
