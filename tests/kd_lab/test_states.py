"""Hidden states and distributions at trained tokens against the models' own logits."""

import pytest
import torch

from kd_lab.data.packed_rows import PackedRows
from kd_lab.states import (
    answered_rows,
    both_distributions,
    length_batches,
    trained_hidden_states,
    trained_states,
)
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

V = len(TOKENIZER)


@pytest.fixture(scope="module")
def pair():
    """A student and a teacher, in float32."""
    return toy_model(16, 1, seed=0).eval(), toy_model(32, 2, seed=1).eval()


def own_logp(model, row, dtype=torch.float32):
    """By the model's own logits, row by row: [tokens, V]."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1, :V]
    trained = torch.tensor(row["labels"][1:]) != -100
    return logits[trained].to(dtype).log_softmax(-1)


@pytest.mark.parametrize("entries", [2**22, 5 * V])
def test_both_distributions_are_the_models_own(pair, entries, monkeypatch):
    monkeypatch.setattr("kd_lab.states.LOGIT_ENTRIES", entries)
    rows = toy_rows(7)
    student, teacher = pair
    parts = list(both_distributions(*pair, PackedRows.of(rows), vocab_size=V, tokens_per_batch=120))
    assert all(part.student_logp.numel() <= entries for part in parts)
    assert len(parts) == 1 or entries == 5 * V
    whose, tokens, p, q = (torch.cat(column) for column in zip(*parts, strict=True))
    for i, row in enumerate(rows):
        torch.testing.assert_close(p[whose == i], own_logp(teacher, row), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(q[whose == i], own_logp(student, row), rtol=1e-4, atol=1e-4)
        assert tokens[whose == i].tolist() == [x for x in row["labels"][1:] if x != -100]


def test_the_softmax_is_as_wide_as_asked_and_as_the_model(pair):
    rows = answered_rows([[5, 6]], [[7, 8]])
    (wide,) = both_distributions(*pair, rows, vocab_size=V, dtype=torch.float64)
    assert wide.teacher_logp.dtype == torch.float64
    assert wide.teacher_logp.exp().sum(-1).sub(1).abs().max() < 1e-12
    doubles = [model.double() for model in (toy_model(16), toy_model(16))]
    (kept,) = both_distributions(*doubles, rows, vocab_size=V)
    assert kept.student_logp.dtype == torch.float64


def test_what_cannot_be_compared_is_refused(pair):
    with pytest.raises(ValueError, match="row 1 has no token to predict"):
        next(trained_states(pair, answered_rows([[5], [5]], [[6], []])))
    with pytest.raises(ValueError, match="token 9 is outside the 8"):
        next(both_distributions(*pair, answered_rows([[5]], [[9]]), vocab_size=8))


def test_states_do_not_depend_on_the_batches(pair):
    rows, done = PackedRows.of(toy_rows(9)), []
    one_pass = trained_hidden_states(pair[0], rows, 10_000, done.append)
    assert done == [len(rows.input_ids)]
    row_by_row = trained_hidden_states(pair[0], rows, 1, done.append)
    assert len(done) == 1 + 9
    torch.testing.assert_close(one_pass, row_by_row, rtol=1e-4, atol=1e-4)


def test_batches_are_of_like_length_the_longest_first():
    assert length_batches([3, 9, 2, 8], 18) == [[1, 3], [0, 2]]
    assert length_batches([30, 2], 18) == [[0], [1]]  # a longer row gets a pass of its own
