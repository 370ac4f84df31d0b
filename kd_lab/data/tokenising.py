"""All conversations of a data set into rows, batch by batch, on all cores.

Rendering is Python and runs on one core; tokenising is Rust and takes all of them. So if the
remaining rendering would take long, other processes do both. The rows are the same for any number
of processes.
"""

import logging
import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from datasets import Dataset
from rich.console import Console
from rich.progress import Progress

from kd_lab.data.messages import Conversation
from kd_lab.data.row_kinds import RowKind, RowWriter
from kd_lab.machine import cores

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

BATCH = 1000  # conversations tokenised at a time, at most
BATCH_BYTES = 8_000_000  # and so many bytes of them, unless a single one has more
POOL_PAYS = 20.0  # seconds that other processes must save, since each takes some to start


class Batch(NamedTuple):
    """The rows of some consecutive conversations."""

    rows: pa.Table
    conversations: int
    dropped: Counter[str]
    noted: Counter[str]


def tokenised(
    conversations: Dataset,
    tokenizer: "PreTrainedTokenizerBase",
    kind: RowKind,
    processes: int | None = None,
) -> Iterator[Batch]:
    """The rows of all conversations, in order.

    Args:
        processes: None takes one a core once that saves time; a number takes so many from the
            start.
    Raises:
        ValueError: the chat template does not fit; see ``training_chat_template``.
    """
    schema = kind.features(conversations.features).arrow_schema
    yield Batch(schema.empty_table(), 0, Counter(), Counter())
    tables = _tables(conversations)
    total = len(conversations)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Tokenising", total=total)
        for batch in _batches(tables, total, tokenizer, kind, schema, processes):
            progress.advance(task, batch.conversations)
            yield batch


def _batches(
    tables: Iterator[pa.Table],
    total: int,
    tokenizer: "PreTrainedTokenizerBase",
    kind: RowKind,
    schema: pa.Schema,
    processes: int | None,
) -> Iterator[Batch]:
    done, started = 0, time.thread_time()  # of this thread: the tokenizer's own run on all cores
    workers = cores() if processes is None else processes
    writer = None
    while True:
        seconds_left = (time.thread_time() - started) * (total - done) / max(done, 1)
        saved = seconds_left * (1 - 1 / workers)
        if workers > 1 and (processes is not None or (done and saved > POOL_PAYS)):
            break
        if (table := next(tables, None)) is None:
            return
        writer = writer or RowWriter(tokenizer)
        yield _batch(table, writer, kind, schema)
        done += len(table)
    yield from _by_processes(tables, tokenizer, kind, schema, workers)


def _by_processes(
    tables: Iterator[pa.Table],
    tokenizer: "PreTrainedTokenizerBase",
    kind: RowKind,
    schema: pa.Schema,
    workers: int,
) -> Iterator[Batch]:
    """The batches of worker processes; if a worker dies, of this process."""
    pending: deque[tuple[pa.Table, Future[Batch]]] = deque()
    # Started anew and not forked: threads of torch and of the tokenizer may run here already.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, context, initializer=_begin, initargs=(tokenizer, kind, schema)
    ) as pool:
        try:
            while True:
                while len(pending) < 2 * workers and (table := next(tables, None)) is not None:
                    pending.append((table, pool.submit(_batch_of_bytes, _to_bytes(table))))
                if not pending:
                    return
                yield pending[0][1].result()
                pending.popleft()
        except BrokenProcessPool:
            logger.warning("a process that tokenised was ended: one process goes on alone")
    writer = RowWriter(tokenizer)
    for table in [table for table, _ in pending]:
        yield _batch(table, writer, kind, schema)
    for table in tables:
        yield _batch(table, writer, kind, schema)


_WORKER: dict[str, tuple[RowWriter, RowKind, pa.Schema]] = {}  # in a worker process: its own


def _begin(tokenizer: "PreTrainedTokenizerBase", kind: RowKind, schema: pa.Schema) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for it answers to Ctrl-C
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the cores
    _WORKER["own"] = (RowWriter(tokenizer), kind, schema)


def _batch_of_bytes(table: bytes) -> Batch:
    return _batch(pa.ipc.open_stream(table).read_all(), *_WORKER["own"])


def _batch(table: pa.Table, writer: RowWriter, kind: RowKind, schema: pa.Schema) -> Batch:
    tools = table["tools"].to_pylist() if "tools" in table.column_names else [None] * len(table)
    messages = table["messages"].to_pylist()
    made = writer.write(kind, [*map(Conversation, messages, tools)])
    columns = {name: [row[name] for row in made.rows] for name in schema.names}
    return Batch(pa.table(columns, schema=schema), len(table), made.dropped, made.noted)


def _tables(conversations: Dataset) -> Iterator[pa.Table]:
    """Consecutive conversations, each table small enough for one batch."""
    as_arrow = conversations.with_format("arrow")
    for start in range(0, len(conversations), BATCH):
        yield from _halves(as_arrow[start : start + BATCH])


def _halves(table: pa.Table) -> Iterator[pa.Table]:
    if len(table) > 1 and table.nbytes > BATCH_BYTES:
        middle = len(table) // 2
        yield from _halves(table[:middle])
        yield from _halves(table[middle:])
    else:
        yield table


def _to_bytes(table: pa.Table) -> bytes:
    """The table alone as bytes: a pickled slice would take the whole table along."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()
