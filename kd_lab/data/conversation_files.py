"""Files of conversations: rows of ``{"messages": [{"role", "content"}, ...]}``, JSONL or Parquet.

Every row is checked while it is read, and the first broken one is an error that names its file and
line. A row's other keys are left alone (UltraChat's ``prompt`` repeats the first message).

In a folder, files named ``train*`` and ``test*`` are the two splits. Where there are ``train_sft*``
and ``test_sft*`` it is these, as in a copy of UltraChat, whose ``*_gen`` files hold other rows.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import rich.progress
from datasets import Dataset
from rich.console import Console

from kd_lab.data.messages import Message

SUFFIXES = (".jsonl", ".parquet")
ROLES = ("system", "user", "assistant")
MANIFEST = "manifest.json"  # beside the files that `kd-lab data` wrote
KIND = "conversations"  # what such a manifest says it is of

MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
ROWS_AT_A_TIME = 10_000


def find_files(path: Path) -> dict[str, list[Path]]:
    """The files of each split, "train" and "test", under a file or folder.

    Where no file is named ``train*``, all are of "train" that are not named ``test*``. Hidden files
    and folders are passed over.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: there is no file of a known kind.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{path}: conversations come in {' or '.join(SUFFIXES)} files")
        return {"train": [path], "test": []}
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix in SUFFIXES and "/." not in f"/{file.relative_to(path).as_posix()}"
    ]
    if not files:
        raise ValueError(f"{path}: no {' or '.join(SUFFIXES)} file in this folder")
    for kind in ("_sft", ""):
        train, test = ([f for f in files if f.name.startswith(s + kind)] for s in ("train", "test"))
        if train:
            return {"train": train, "test": test}
    return {"train": [file for file in files if file not in test], "test": test}


def read_conversations(files: list[Path]) -> Dataset:
    """All rows of some files, in order: one column, ``messages``; nothing is cached on disk.

    Raises:
        ValueError: ``FILE:LINE: what is wrong`` (of Parquet, the row; both count from 1), or there
            is no row.
    """
    rows = (messages for file in files for messages in _READERS[file.suffix](file))
    chunks = []
    while chunk := list(islice(rows, ROWS_AT_A_TIME)):
        chunks.append(pa.array(chunk, MESSAGES))
    if not chunks:
        raise ValueError(f"no conversation in {', '.join(map(str, files))}")
    return Dataset(pa.table({"messages": pa.chunked_array(chunks)}))


def check_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder that `kd-lab data` wrote, once its files are found unchanged.

    Returns:
        None if the folder has none.
    Raises:
        ValueError: a file is missing or is not what was written.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"{folder / MANIFEST}: not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        return None
    for name, written in manifest["files"].items():
        file = folder / name
        if not file.exists() or sha256(file) != written["sha256"]:
            raise ValueError(
                f"{file} is not what `kd-lab data` wrote: delete {folder} and write it anew (or "
                f"only {MANIFEST}, if the change was meant)"
            )
    return manifest


def sha256(file: Path) -> str:
    """The checksum of a file's bytes, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read_jsonl(file: Path) -> Iterator[list[Message]]:
    console = Console(stderr=True)
    with rich.progress.open(
        file,
        "rb",
        description=f"Reading {file.name}",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                yield _messages(json.loads(line))
            except json.JSONDecodeError as error:
                what = f"not JSON: {error.msg}, at column {error.colno}"
                raise ValueError(f"{file}:{number}: {what}") from error
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}:{number}: {error}") from error


def _read_parquet(file: Path) -> Iterator[list[Message]]:
    try:
        table = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: not a Parquet file: {error}") from error
    if "messages" not in table.schema_arrow.names:
        names = ", ".join(table.schema_arrow.names)
        raise ValueError(f"{file}: no column 'messages' (it has {names})")
    number = 0
    for batch in table.iter_batches(ROWS_AT_A_TIME, columns=["messages"]):
        for row in batch.to_pylist():
            number += 1
            try:
                yield _messages(row)
            except ValueError as error:
                raise ValueError(f"{file}:{number}: {error}") from error


_READERS = {".jsonl": _read_jsonl, ".parquet": _read_parquet}


def _messages(row: Any) -> list[Message]:
    """A row's messages.

    Raises:
        ValueError: it is no conversation; says what is wrong with it.
    """
    if not isinstance(row, dict):
        raise ValueError(f'expected {{"messages": [...]}}, found {_kind(row)}')
    if "messages" not in row:
        raise ValueError(f"no key 'messages' (it has {', '.join(map(repr, row)) or 'none'})")
    if not isinstance(row["messages"], list):
        raise ValueError(f"messages must be a list, not {_kind(row['messages'])}")
    for i, message in enumerate(row["messages"]):
        if not isinstance(message, dict):
            raise ValueError(f"messages[{i}] must be an object, not {_kind(message)}")
        for key in ("role", "content"):
            if key not in message:
                raise ValueError(f"messages[{i}] has no key {key!r}")
            if not isinstance(message[key], str):
                raise ValueError(f"messages[{i}].{key} must be a string, not {_kind(message[key])}")
        if message["role"] not in ROLES:
            raise ValueError(f"messages[{i}].role is {message['role']!r}, not {', '.join(ROLES)}")
        message["content"].encode()  # JSON can say half of a character; a UnicodeError says where
    return [{"role": m["role"], "content": m["content"]} for m in row["messages"]]


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return names.get(type(value), f"{value!r}")
