"""A small disk in memory, where this machine lets one be mounted: it fills up, or is read-only."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

LARGE = 2**28  # bytes


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A new folder on a disk of its own, with room enough at first."""
    folder.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", f"size={LARGE}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def leave_room(folder: Path, room: int) -> None:
    """Let the folder's disk have so many bytes left, rounded up to its blocks; LARGE: enough."""
    found = os.statvfs(folder)
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    blocks = -(-(used + room) // found.f_frsize)
    _mount("-o", f"remount,size={blocks * found.f_frsize}", str(folder))


def make_read_only(folder: Path) -> None:
    """Let nobody write to the folder's disk any more, root included."""
    _mount("-o", "remount,ro", str(folder))


@cache
def may_mount() -> bool:
    """Whether this process may mount a disk: as root of Linux, outside of most containers."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with disk(Path(folder) / "disk"):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)
