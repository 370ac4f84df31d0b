"""Rows that are made once per machine: tokenised, kept on disk, and mapped into memory.

    KD_LAB_CACHE, or else ~/.cache/kd-lab
        KEY.arrow    the rows
        KEY.json     counts of rows, drops and changes, and the SHA-256 of the rows
        KEY.lock     held by the process that makes them; a process that dies lets go of it

The key is a hash of all that decides the rows: sources, draw, tokenizer, chat template, kind of
rows, lengths, and this code. KEY.json is written last, so rows are
whole or absent. Rows that differ from their checksum are made anew. Rows unused for a month are
deleted; you may delete the whole folder at any time.
"""

import contextlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datasets import Dataset, DatasetDict
from filelock import FileLock, Timeout

from kd_lab.data.conversations import (
    BOTH,
    DataArguments,
    Split,
    load_conversations,
    sources,
)
from kd_lab.data.examples import Examples, NoRows, collected, say, say_what_became
from kd_lab.data.row_kinds import HeldOutRows, Prompts, RowKind, TrainingRows
from kd_lab.data.tokenising import tokenised
from kd_lab.files import delete_parts, replace_file, sha256_of, sha256_of_file, write_text

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed
    from transformers import PreTrainedTokenizerBase

KEPT_UNUSED = 30 * 24 * 3600.0  # seconds
# Their versions can change the rows; of TRL are the forms of some chat templates.
LIBRARIES = ("transformers", "trl", "tokenizers", "jinja2")


class RowStore:
    """The rows of a data set with a tokenizer, from disk if they were ever made here.

    Conversations are read only when rows are wanted that do not exist. The warnings of reading, and
    the counts of drops, are repeated whenever the rows are used.
    """

    def __init__(
        self,
        data: DataArguments,
        tokenizer: "PreTrainedTokenizerBase",
        splits: Sequence[Split] = BOTH,
    ) -> None:
        """``splits`` are all that the command uses: where "test" is not, nothing is held out."""
        self.data, self.tokenizer, self.splits = data, tokenizer, splits
        self._said: list[str] = []

    def training_rows(
        self, split: str, max_length: int | None = None, prompts_suffice: bool = False
    ) -> Examples:
        """The rows of ``training_examples``; see ``TrainingRows`` for ``prompts_suffice``.

        Args:
            split: "train" or "test".
        Raises:
            ValueError, OSError: as ``load_conversations`` and ``training_examples``.
        """
        return self._rows(split, TrainingRows(max_length, prompts_suffice))

    def prompts(self, split: str, max_prompt_length: int | None = None) -> Examples:
        """The rows of ``generation_prompts``; raises as ``training_rows``."""
        return self._rows(split, Prompts(max_prompt_length))

    def test_rows(self, max_prompt_length: int, max_length: int) -> Examples:
        """The rows of ``HeldOutRows`` of the test split; raises as ``training_rows``."""
        return self._rows("test", HeldOutRows(max_prompt_length, max_length))

    @cached_property
    def conversations(self) -> DatasetDict:
        """The splits that are used, read once."""
        with _heard(self._said):
            return load_conversations(self.data, self.splits)

    def _rows(self, split: str, kind: RowKind) -> Examples:
        folder = _cache_folder() if hasattr(self.tokenizer, "backend_tokenizer") else None
        if folder is None:
            examples, about = self._made(split, kind)
        else:
            path = folder / self._key(split, kind)
            try:
                examples, about = (
                    _read(path)
                    or self._all_answered(folder, split, kind)
                    or self._kept(path, split, kind)
                )
            except _NotKept as error:
                _say_not_kept(folder, str(error))
                examples, about = self._made(split, kind)
        for message in about["said"]:
            if message not in self._said:
                say(message)
                self._said.append(message)
        total, what = about["conversations"], {"train": "training", "test": "test"}[split]
        if not len(examples.rows):
            raise NoRows(total, examples.dropped, what)
        say_what_became(examples, total, self.tokenizer, what)
        return examples

    def _all_answered(
        self, folder: Path, split: str, kind: RowKind
    ) -> tuple[Examples, dict[str, Any]] | None:
        """The rows with answers, if they are there: where none is missing, prompts add none."""
        if not isinstance(kind, TrainingRows) or not kind.prompts_suffice:
            return None
        there = _read(folder / self._key(split, replace(kind, prompts_suffice=False)))
        return None if there is None or there[0].dropped else there

    def _kept(self, path: Path, split: str, kind: RowKind) -> tuple[Examples, dict[str, Any]]:
        """The rows, made and written to ``path`` by this process or by another one meanwhile."""
        with _locked(path.with_suffix(".lock")):
            if there := _read(path):
                return there
            conversations = self.conversations[split]
            try:
                _delete_unused(path.parent)
                _write(path, conversations, self.tokenizer, kind, self._said)
            except OSError as error:
                raise _NotKept(error.strerror or str(error)) from error
            if there := _read(path):
                return there
        raise _NotKept("they are not what was written")

    def _made(self, split: str, kind: RowKind) -> tuple[Examples, dict[str, Any]]:
        """The rows in memory."""
        conversations = self.conversations[split]
        examples = collected(tokenised(conversations, self.tokenizer, kind))
        about = {"conversations": len(conversations), "said": list(self._said)}
        return examples, about

    def _key(self, split: str, kind: RowKind) -> str:
        described = {**self._described, "split": split, "kind": type(kind).__name__, **asdict(kind)}
        return sha256_of(json.dumps(described, sort_keys=True, default=str))[:40]

    @cached_property
    def _described(self) -> dict[str, Any]:
        """All that decides the rows, except the split and kind."""
        return {
            "data": asdict(self.data),
            "splits": sorted(self.splits),
            "sources": sources(self.data),
            "tokenizer": _tokenizer_sha256(self.tokenizer),
            "code": _code_sha256(),
            "versions": _versions(),
        }


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def _tokenizer_sha256(tokenizer: Any) -> str:
    """A hash of all parts of a tokenizer that decide the ids of a conversation."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    state = {name: part for name, part in backend.items() if name not in ("padding", "truncation")}
    described = [
        state,
        tokenizer.eos_token,
        sorted(map(str, tokenizer.all_special_tokens)),
        tokenizer.chat_template,
        type(tokenizer).__name__,
        getattr(tokenizer, "split_special_tokens", None),
    ]
    return sha256_of(json.dumps(described, sort_keys=True))


@cache
def _code_sha256() -> str:
    """A hash of the package that reads and tokenises."""
    return sha256_of(*(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))


def _cache_folder() -> Path | None:
    """The folder, made if need be; None, with one warning, if it cannot be written."""
    asked = os.environ.get("KD_LAB_CACHE")
    try:
        folder = Path(asked).expanduser() if asked else Path.home() / ".cache" / "kd-lab"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        _say_not_kept(Path(asked or "~/.cache/kd-lab"), str(error))
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        _say_not_kept(folder, "it cannot be written")
        return None
    return folder


@cache
def _say_not_kept(folder: Path, why: str) -> None:
    told = "tokenised rows are not kept in %s (%s): set KD_LAB_CACHE to another folder"
    say(told, folder, why)


class _NotKept(Exception):
    """Rows could not be written, or not be read again."""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock; the system lets go of it when its process ends, however it ends."""
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            say("another process tokenises the same conversations: waiting for its rows")
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # a file system without locks
        raise _NotKept(str(error)) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _heard(messages: list[str]) -> Iterator[None]:
    """Also keep the warnings of reading conversations."""

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    keeper, reading = Keeper(logging.WARNING), logging.getLogger("kd_lab.data")
    reading.addHandler(keeper)
    try:
        yield
    finally:
        reading.removeHandler(keeper)


def _write(
    path: Path,
    conversations: Dataset,
    tokenizer: "PreTrainedTokenizerBase",
    kind: RowKind,
    said: list[str],
) -> None:
    """Make the rows, batch by batch, and write them with the counts of drops and changes."""
    dropped, noted = Counter[str](), Counter[str]()

    def save(part: Path) -> None:
        batches = tokenised(conversations, tokenizer, kind)
        first = next(batches)
        with part.open("wb") as file, pa.ipc.new_stream(file, first.rows.schema) as stream:
            for batch in batches:
                stream.write_table(batch.rows)
                dropped.update(batch.dropped)
                noted.update(batch.noted)

    rows, beside = path.with_suffix(".arrow"), path.with_suffix(".json")
    for written in (rows, beside):
        delete_parts(written)
    replace_file(rows, save)
    about = {
        "sha256": sha256_of_file(rows),
        "conversations": len(conversations),
        "dropped": dropped,
        "noted": noted,
        "said": said,
    }
    write_text(beside, json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def _read(path: Path) -> tuple[Examples, dict[str, Any]] | None:
    """The rows, if they exist and are whole."""
    rows, beside = path.with_suffix(".arrow"), path.with_suffix(".json")
    try:
        about = json.loads(beside.read_text(encoding="utf-8"))
        if sha256_of_file(rows) != about["sha256"]:
            raise ValueError("not its checksum")
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError):  # half of a file, or a byte that flipped
        say("%s is damaged: its rows are made anew", rows)
        return None
    with contextlib.suppress(OSError):  # another user's, say
        for used in (rows, beside):
            os.utime(used)
    return Examples(Dataset.from_file(str(rows)), about["dropped"], about["noted"]), about


def _delete_unused(folder: Path) -> None:
    """Delete rows that were not used for long."""
    for file in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > KEPT_UNUSED:
                file.unlink()
