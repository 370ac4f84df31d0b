"""The gaps on head and tail against sums written out."""

import math

import numpy as np
import pytest
import torch

from evidence.head_tail_gaps import head_and_tail_gaps, measure_gaps
from kd_lab.data.packed_rows import PackedRows
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

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


def test_equal_distributions_have_no_gap_and_all_of_it_is_head_or_tail():
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
