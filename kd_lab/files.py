"""A file or a folder is whole or absent; one process writes in it; and its SHA-256."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from filelock import FileLock, Timeout

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What safetensors and torch say of a full disk: they have no error numbers.
SAYS_FULL = (
    "os error 28)", "os error 27)", "os error 122)",  # safetensors
    "inline_container", "StreamWriter", "iostream error",  # torch
)  # fmt: skip
SEAL = "sha256"  # the key of a JSON file's own digest
LOCK = ".lock"
IS_WINDOWS = os.name == "nt"


class DiskFull(OSError):
    """There is no room for a file; the message names it."""


def raise_if_full(
    error: Exception, path: Path, advice: str = "give the same command again"
) -> None:
    """Say which file found no room, if that is what a library means.

    Args:
        advice: what to do once there is room.
    Raises:
        DiskFull: names the file.
    """
    says_so = any(words in str(error) for words in SAYS_FULL)
    is_full = isinstance(error, OSError) and error.errno in FULL
    if isinstance(error, DiskFull) or not (is_full or says_so):
        return
    reason = os.strerror(error.errno or errno.ENOSPC) if isinstance(error, OSError) else "disk full"
    raise DiskFull(
        f"no room for {path} ({reason}): what was whole before is whole still; make room and "
        f"{advice}"
    ) from error


def being_written(error: Exception, folder: Path) -> Path:
    """The file below a folder that an error broke off: the last one that was written to.

    The folder itself where there is none. safetensors deletes what it has of a file.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    last = max(files, key=lambda path: path.stat().st_mtime_ns, default=folder)
    is_weights = type(error).__name__ == "SafetensorError"
    return last.with_name("model.safetensors") if is_weights else last


def check_room(folder: Path, needed: float, what: str) -> None:
    """Refuse to begin what the disk has no room for.

    Args:
        needed: bytes, at the least.
        what: it is that takes them, for the message.
    Raises:
        ValueError: names the folder, the need and the room.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ValueError(
            f"{folder}: {what} takes {_size(needed)} or more, and its disk has {_size(free)} "
            "left: make room, or choose another output_dir"
        )


def _size(count: float) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.2f} MB"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A hidden path beside ``path`` that takes its place, on disk, only if the block ends well.

    An interrupted or failed block leaves the old file as it was. The hidden path has the suffix of
    ``path``, by which libraries choose a format.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        force_to_disk(part)
        part.replace(path)
    except Exception as error:
        raise_if_full(error, path)
        raise
    finally:
        part.unlink(missing_ok=True)
    force_to_disk(path.parent)


def replace_file(path: Path, save: Callable[[Path], Any]) -> None:
    """Write a file under a hidden name, force it to disk, and only then rename it.

    Args:
        save: writes the bytes to the path of its argument.
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
    """Delete the remains of killed processes beside ``path``; no other process may write it now."""
    for part in path.parent.glob(f".{path.name}.*part*"):
        part.unlink()


def delete_remains(folder: Path) -> None:
    """Delete what killed processes left in a folder: hidden parts, and safetensors' own ones.

    No other process may write in the folder now.
    """
    for pattern in (".*.[0-9]*.part*", ".tmp??????"):
        for path in folder.glob(pattern):
            if path.is_file():
                path.unlink()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty hidden folder that becomes ``folder`` only if the block ends well.

    Where ``folder`` is a link, it becomes the folder that the link leads to.

    Raises:
        OSError: ``folder`` exists and is not empty.
    """
    folder = Path(os.path.realpath(folder)) if folder.is_symlink() else folder
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir(parents=True)
    try:
        yield part
        if folder.exists():
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()
        part.rename(folder)
    except Exception as error:
        raise_if_full(error, folder / being_written(error, part).relative_to(part))
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Refuse a place that ``whole_folder`` cannot fill, since the system keeps it where it is.

    Raises:
        ValueError: a disk is mounted there; names it.
    """
    if os.path.ismount(folder):
        raise ValueError(
            f"output_dir: {folder} is where a disk is mounted, which no new folder replaces: give "
            "a folder below it"
        )


def is_empty(folder: Path) -> bool:
    """Whether a folder has no file but its lock; a file of that name is not empty."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOCK}


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


def force_to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    if IS_WINDOWS and path.is_dir():
        return  # it opens none
    descriptor = os.open(path, os.O_RDWR if IS_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_mapping(path: Path, mend: str) -> dict[str, Any]:
    """The mapping in a JSON file that this project wrote.

    Args:
        mend: what brings a damaged file back, for the message.
    Raises:
        ValueError: the file was cut short, or holds something else; as ``damaged``.
    """
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise damaged(path, " ".join(str(error).split()), mend) from error
    if not isinstance(value, dict):
        raise damaged(path, "it holds no mapping", mend)
    return value


def damaged(path: Path, why: str, mend: str) -> ValueError:
    """What to raise for a file that is not what was written: its path, the reason, the remedy."""
    return ValueError(f"{path} is damaged ({why}): {mend}")


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same value with ``sha256``, the digest of all else in it, as its last key."""
    content = {key: item for key, item in value.items() if key != SEAL}
    return {**content, SEAL: _digest(content)}


def check_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Refuse a value that was changed after it was sealed; one without a seal is older, and passes.

    Raises:
        ValueError: names the file.
    """
    if value.get(SEAL, _digest(value)) != _digest(value):
        raise ValueError(f"{path} is not what was written: its checksum differs")


def _digest(value: Mapping[str, Any]) -> str:
    content = {key: item for key, item in value.items() if key != SEAL}
    return sha256_of(json.dumps(content, sort_keys=True, ensure_ascii=False))


@contextmanager
def only_one_at_work(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it when the process ends, however it ends.

    Of the processes of one launcher the first holds it for all.

    Raises:
        ValueError: another process holds it; names the folder.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
        with TemporaryFile(dir=folder):  # a shut folder may have a lock of an earlier command
            pass
    except Timeout as busy:
        raise ValueError(
            f"another process is at work in {folder}: wait for it, stop it, or choose another "
            "output_dir"
        ) from busy
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        is_unused = is_new and is_empty(folder)
        lock.release()
        if is_unused:  # what was refused leaves no trace
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()
