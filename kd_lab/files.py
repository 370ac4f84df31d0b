"""A file is there whole, or it is not there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace_file(path: Path, save: Callable[[Path], Any]) -> None:
    """Write a file under a hidden name, force it to disk, and only then give it its own.

    Args:
        save: writes the bytes to the path it is called with.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save(part)
        _force_to_disk(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _force_to_disk(path.parent)


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
