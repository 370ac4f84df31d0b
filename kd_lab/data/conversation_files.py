"""Files of conversations: JSON lines, a JSON array or Parquet, also gzipped, in any known form.

Every row is checked while it is read. The first broken row is an error that names its file and line
(in Parquet its row; both count from 1). kd_lab.data.forms knows the forms of a row, and
kd_lab.data.splits chooses the files to train on.
"""

import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq
import rich.progress
from datasets import Dataset
from rich.console import Console
from rich.markup import escape

from kd_lab.data.forms import FormReader, without_filled_nulls
from kd_lab.data.manifest import MANIFEST
from kd_lab.data.messages import Conversation
from kd_lab.data.shards import written_by_command
from kd_lab.data.splits import sort_by_split
from kd_lab.json_text import GivenTwice, from_json, item_given_twice
from kd_lab.next_step import MODEL_FILES

KINDS = (".jsonl", ".json", ".parquet")
# What may hold conversations as well, and is not read.
OTHER_KINDS = (
    ".csv", ".tsv", ".txt", ".ndjson", ".arrow", ".xlsx", ".zst", ".bz2", ".xz", ".zip", ".tar",
    ".tgz",
)  # fmt: skip
# JSON files that lie beside data and hold none.
ABOUT_DATA = (MANIFEST, "dataset_info.json", "dataset_infos.json", "metadata.json", "config.json")

MESSAGE = {"role": pa.string(), "content": pa.string()}
BESIDE = {"trained": pa.bool_(), "extra": pa.string()}  # fields that only some data need
ROWS_AT_A_TIME = 10_000
BYTES_AT_A_TIME = 256 * 2**20  # a column of Arrow strings holds less than 2 GiB a piece


class Row(NamedTuple):
    """A row as a file has it."""

    value: Any
    where: str  # FILE:LINE


def find_files(path: Path) -> dict[str, list[Path]]:
    """The files under a file or folder, by split: "train", "test", and "left_out" of neither.

    Hidden files and folders are skipped.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: there is no file of a known kind, or a name says two splits; or the folder is
            of a model, or of what another command stores.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    root = path.parent if path.is_file() else path
    if path.is_file():
        if kind_of(path) is None:
            raise ValueError(f"{path}: conversations come in {', '.join(KINDS)} files or their .gz")
        files = [path]
    else:
        _check_holds_data(path)
        files = [file for file in _seen(path) if kind_of(file) is not None]
        files = [file for file in files if file.name.lower() not in ABOUT_DATA]
    if not files:
        raise ValueError(f"{path}: no {', '.join(KINDS)} file (or .gz of one) in this folder")
    try:
        found = sort_by_split(file.relative_to(root) for file in files)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return {split: [root / name for name in names] for split, names in found.items()}


def _check_holds_data(folder: Path) -> None:
    """Refuse a folder whose JSON files are no conversations, before one is found to be none."""
    writer = written_by_command(folder)
    if writer in ("kd-lab cache", "kd-lab evaluate"):
        raise ValueError(f"{folder} was written by `{writer}`, and holds no conversations")
    is_of_a_model = any((folder / name).is_file() for name in MODEL_FILES)
    if is_of_a_model and any((*folder.glob("*.safetensors"), *folder.glob("*.bin"))):
        raise ValueError(f"{folder} holds a model, and no conversations")


def unread_files(path: Path) -> list[Path]:
    """The files under a folder that may hold conversations, and are of no kind that is read."""
    return [
        file for file in _seen(path) if file.name.lower().removesuffix(".gz").endswith(OTHER_KINDS)
    ]


def kind_of(file: Path) -> str | None:
    """The suffix that decides how a file is read, such as ".jsonl" of ``a.JSONL.gz``; else None."""
    name = file.name.lower().removesuffix(".gz")
    return next((kind for kind in KINDS if name.endswith(kind)), None)


def _seen(folder: Path) -> list[Path]:
    """Everything under a folder that is not hidden."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if "/." not in f"/{path.relative_to(folder).as_posix()}"
    ]


def read_conversations(files: list[Path], forms: FormReader | None = None) -> Dataset:
    """All rows of the files, in order: the column ``messages``; nothing is cached on disk.

    Messages have the fields ``trained`` and ``extra``, and rows the column ``tools``, only where a
    row needs them (kd_lab.data.messages).

    Raises:
        ValueError: ``FILE:LINE: what is wrong``, or there is no row.
    """
    conversations = as_conversations((row for file in files for row in read_rows(file)), forms)
    if not len(conversations):
        raise ValueError(f"no conversation in {', '.join(map(str, files))}")
    return conversations


def as_conversations(rows: Iterable[Row], forms: FormReader | None = None) -> Dataset:
    """Rows of any form as a dataset of conversations.

    Raises:
        ValueError: as ``read_conversations``.
    """
    forms = forms or FormReader()
    table = _ConversationTable()
    for row in rows:
        try:
            table.add(forms.read(row.value))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{row.where}: {error}") from error
    return table.dataset()


def read_rows(file: Path) -> Iterator[Row]:
    """The rows of one file, unchecked.

    Raises:
        ValueError: the file is damaged or of another kind than its name; names file and line.
    """
    console = Console(stderr=True)
    progress = rich.progress.open(
        file,
        "rb",
        description=f"Reading {escape(file.name)}",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    is_gzipped = file.name.lower().endswith(".gz")
    with progress as raw, gzip.open(raw) if is_gzipped else contextlib.nullcontext(raw) as opened:
        content = cast(BinaryIO, opened)
        try:
            if kind_of(file) == ".parquet":
                yield from _read_parquet(file, content)
            elif kind_of(file) == ".json" and _first_byte(content) == b"[":
                yield from _read_array(file, content)
            else:
                yield from _read_lines(file, content)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{file}: a damaged gzip file: {error}") from error


def _read_lines(file: Path, lines: Iterable[bytes]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            yield Row(from_json(line), f"{file}:{number}")
        except json.JSONDecodeError as error:
            what = f"not JSON: {error.msg}, at column {error.colno}"
            if kind_of(file) == ".json":
                what += " (a .json file is one array, or an object on each line)"
            raise ValueError(f"{file}:{number}: {what}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}:{number}: {error}") from error


def _read_array(file: Path, content: BinaryIO) -> Iterator[Row]:
    try:
        text = content.read()
        values = from_json(text)
    except GivenTwice as error:
        raise ValueError(f"{file}:{item_given_twice(text)}: {error}") from error
    except json.JSONDecodeError as error:
        what = f"not JSON: {error.msg}, at column {error.colno}"
        raise ValueError(f"{file}:{error.lineno}: {what}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: {error}") from error
    for number, value in enumerate(values, 1):
        yield Row(value, f"{file}:{number}")


def _first_byte(content: BinaryIO) -> bytes:
    """The first byte after white space and byte order mark; the file is then at its start."""
    start = content.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    content.seek(0)
    return start[:1]


def _read_parquet(file: Path, content: BinaryIO) -> Iterator[Row]:
    try:
        table = pq.ParquetFile(io.BytesIO(content.read()))
        names = table.schema_arrow.names
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"{file}: it has two columns {twice[0]!r}: keep one")
        number = 0
        for batch in table.iter_batches(_rows_at_a_time(table.metadata)):
            for value in batch.to_pylist():
                number += 1
                yield Row(without_filled_nulls(value), f"{file}:{number}")
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: not a Parquet file: {error}") from error
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file}: a damaged Parquet file: {error}") from error


def _rows_at_a_time(metadata: pq.FileMetaData) -> int:
    """How many rows to decode at a time: by bytes, since one row can be very long."""
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return max(1, min(ROWS_AT_A_TIME, BYTES_AT_A_TIME * metadata.num_rows // max(1, size)))


class _ConversationTable:
    """Collects conversations into Arrow pieces; leaves out fields that no row needs."""

    def __init__(self) -> None:
        self.pieces: list[pa.Table] = []
        self.rows: list[Conversation] = []
        self.bytes = 0
        self.needs_beside = self.needs_tools = False

    def add(self, conversation: Conversation) -> None:
        self.rows.append(conversation)
        for message in conversation.messages:
            self.bytes += len(message["content"]) + len(message.get("extra") or "")
            self.needs_beside |= "extra" in message or "trained" in message
        self.bytes += len(conversation.tools or "")
        self.needs_tools |= conversation.tools is not None
        if len(self.rows) >= ROWS_AT_A_TIME or self.bytes >= BYTES_AT_A_TIME:
            self._close_piece()

    def dataset(self) -> Dataset:
        self._close_piece()
        pieces = self.pieces or [pa.table({"messages": pa.array([], _messages(False))})]
        kind = _messages(self.needs_beside)
        table = pa.concat_tables(pieces, promote_options="permissive")
        columns = {"messages": table["messages"].cast(kind)}
        if self.needs_tools:
            columns["tools"] = table["tools"].cast(pa.string())
        return Dataset(pa.table(columns))

    def _close_piece(self) -> None:
        if self.rows:
            messages = pa.array([row.messages for row in self.rows], _messages(True))
            tools = pa.array([row.tools for row in self.rows], pa.string())
            self.pieces.append(pa.table({"messages": messages, "tools": tools}))
        self.rows, self.bytes = [], 0


def _messages(with_beside: bool) -> pa.DataType:
    return pa.list_(pa.struct(MESSAGE | (BESIDE if with_beside else {})))
