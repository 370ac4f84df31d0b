"""What a library raises for a file that it cannot read, in one line with the file's name."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def readable(name: str | Path) -> Iterator[None]:
    """Refuse what is read inside by its name, whatever a library raises.

    Raises:
        ValueError: whatever was raised inside, by its first line.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # safetensors, tokenizers, json and torch have no common base
        raise ValueError(f"{_at_fault(Path(name))} cannot be read: {reason_of(error)}") from error


def _at_fault(path: Path) -> Path:
    """The first file of a folder that is no JSON where it should be, or else the folder."""
    for file in sorted(path.glob("*.json")) if path.is_dir() else ():
        try:
            json.loads(file.read_text(encoding="utf-8"))  # bytes may have a BOM; nobody takes it
        except ValueError:
            return file
    return path


def reason_of(error: BaseException) -> str:
    """The first line of a library's message, or its first two where the first ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    if reason.endswith(":") and len(lines) > 1:
        reason += f" {lines[1]}"
    return f"it has no {reason}" if isinstance(error, KeyError) else reason
