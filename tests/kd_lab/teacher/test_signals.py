"""The bytes of a stored signal are counted before it is written."""

from types import SimpleNamespace

import pytest
import torch

from kd_lab.data.packed_rows import PackedRows
from kd_lab.teacher.cache import _bytes
from kd_lab.teacher.signals import topk_bytes, topk_distribution
from tests.helpers.cache_problem import arguments
from tests.helpers.toy_pair import toy_rows


@pytest.mark.parametrize(
    ("vocab_size", "k", "each"), [(500, 7, 32), (65_536, 3, 16), (65_537, 3, 22)]
)
def test_top_k_takes_what_is_counted(vocab_size, k, each):
    hidden, head = torch.randn(5, 4), torch.randn(vocab_size, 4)
    kept = topk_distribution(hidden, head, None, k=k, temperature=1.0, chunk_size=5)
    assert sum(part.nbytes for part in kept.values()) == 5 * topk_bytes(k, vocab_size) == 5 * each


@pytest.mark.parametrize(("vocab_size", "each"), [(49_152, 260), (151_665, 388)])
def test_the_room_for_a_cache_goes_by_the_vocabulary(tmp_path, vocab_size, each):
    rows = PackedRows.of(toy_rows(5))
    asked = arguments("x", tmp_path, teacher_signal="topk", topk=64)
    trained = int(rows.positions_per_row().sum())
    assert trained > 0
    assert _bytes(asked, SimpleNamespace(vocab_size=vocab_size), rows) == trained * each
