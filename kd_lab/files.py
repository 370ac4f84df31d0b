"""A file or a folder is there whole, or it is not there; and the SHA-256 of what is in it."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A hidden path beside ``path`` that takes its place, on disk, only if the block ends well.

    An interrupted or failed block leaves the old file as it was. The hidden path has the suffix of
    ``path``, by which libraries choose a format.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        _force_to_disk(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _force_to_disk(path.parent)


def replace_file(path: Path, save: Callable[[Path], Any]) -> None:
    """Write a file under a hidden name, force it to disk, and only then give it its own.

    Args:
        save: writes the bytes to the path it is called with.
    """
    with whole_file(path) as part:
        save(part)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, and its folder if need be."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_bytes(content)


def delete_parts(path: Path) -> None:
    """Delete what killed processes left of ``path``, which no other process may write now."""
    for part in path.parent.glob(f".{path.name}.*part*"):
        part.unlink()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty hidden folder that becomes ``folder`` only if the block ends well.

    Raises:
        OSError: ``folder`` exists and is not empty.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir(parents=True)
    try:
        yield part
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(*parts: str | bytes) -> str:
    """The SHA-256 of texts (in UTF-8) and bytes, one after the other, in hex."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.encode() if isinstance(part, str) else part)
    return whole.hexdigest()


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
