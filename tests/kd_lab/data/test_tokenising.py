"""The rows do not hang on how many processes make them, or on how the batches are cut."""

import multiprocessing

from datasets import Dataset

from kd_lab.data import tokenising
from kd_lab.data.row_kinds import Prompts, TrainingRows
from kd_lab.data.tokenising import tokenised
from kd_lab.data.toy_language import conversations
from tests.helpers.forked_processes import SERVER
from tests.helpers.toy_pair import TOKENIZER


def talks(count=2500):
    rows = conversations(count, seed=0, two_turn_share=0.3)
    for row in rows[::7]:
        del row["messages"][1:]  # a question alone
    return Dataset.from_list(rows)


def rows_of(batches):
    rows = [row for batch in batches for row in batch.rows.to_pylist()]
    dropped = sum((batch.dropped for batch in batches), start=batches[0].dropped)
    noted = sum((batch.noted for batch in batches), start=batches[0].noted)
    return rows, dropped, noted


def test_any_number_of_processes_gives_the_same_rows(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: SERVER)  # not each with imports
    kind = TrainingRows(30)
    alone = rows_of([*tokenised(talks(), TOKENIZER, kind, processes=1)])
    assert rows_of([*tokenised(talks(), TOKENIZER, kind, processes=2)]) == alone
    assert sum(alone[1].values()) > 100


def test_batches_are_cut_by_bytes(monkeypatch):
    whole = rows_of([*tokenised(talks(300), TOKENIZER, TrainingRows(), processes=1)])
    monkeypatch.setattr(tokenising, "BATCH_BYTES", 5_000)
    batches = [*tokenised(talks(300), TOKENIZER, TrainingRows(), processes=1)]
    assert rows_of(batches) == whole
    sizes = [batch.conversations for batch in batches]
    assert sum(sizes) == 300
    assert max(sizes) < 60
    # One that alone has more is a batch of its own.
    long = Dataset.from_list(
        [{"messages": [{"role": "user", "content": "Mia? " * n}]} for n in (1, 5_000, 1)]
    )
    batches = [*tokenised(long, TOKENIZER, Prompts(), processes=1)]
    assert [batch.conversations for batch in batches if batch.conversations] == [1, 1, 1]


def test_other_processes_are_started_only_where_they_pay(monkeypatch):
    started = []
    monkeypatch.setattr(tokenising, "cores", lambda: 4)
    monkeypatch.setattr(
        tokenising, "_by_processes", lambda tables, *others: started.append(others[-1]) or ()
    )
    [*tokenised(talks(1500), TOKENIZER, TrainingRows())]
    assert started == []
    monkeypatch.setattr(tokenising, "POOL_PAYS", 1e-6)
    [*tokenised(talks(1500), TOKENIZER, TrainingRows())]
    assert started == [4]
