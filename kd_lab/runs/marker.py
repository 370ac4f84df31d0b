"""The marker ``complete``: what it vouches for, it vouches for by content.

It is written last, and names every file of its folder with its size and SHA-256. A folder whose
files are not those is refused by the file's name. A marker of the first edition is empty: such a
folder is used, and a line on stderr says that nothing vouches for its content.
"""

import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kd_lab.files import check_sealed, force_to_disk, sealed, sha256_of_file, write_text
from kd_lab.runs.run_files import COMPLETE, RESULT

# What another command writes later, and the card, which people edit.
NOT_VOUCHED = (COMPLETE, RESULT, "README.md")
THREADS_PAY = 2**22  # bytes: four milliseconds of hashing, and a few to start threads


class Damaged(ValueError):
    """A file is not what the marker of its folder vouches for."""


def mark_whole(folder: Path) -> None:
    """Force the folder's files to disk, hash them, and write the marker.

    Of a checkpoint all files count, those of its sub-folders too; of a run's folder its own only,
    since checkpoints have markers of their own.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in _vouched(folder)}
    for path in paths.values():
        force_to_disk(path)
    for holder in {folder.parent, *(path.parent for path in paths.values())}:
        force_to_disk(holder)
    files = {
        name: {"bytes": paths[name].stat().st_size, "sha256": digest}
        for name, digest in _digests(paths).items()
    }
    write_text(folder / COMPLETE, json.dumps(sealed({"files": files}), indent=1) + "\n")


def check_whole(folder: Path, *, only: Iterable[str] | None = None) -> None:
    """Compare a marked folder with what its marker says; a folder without a marker passes.

    Args:
        only: names of the files to look at; None: all.
    Raises:
        Damaged: a file is missing or was changed, or the marker itself was; names the file.
    """
    vouched = vouched_files(folder)
    if only is None and not vouched and (folder / COMPLETE).is_file():
        print(f"kd-lab: {folder / COMPLETE} is empty: the files are not checked", file=sys.stderr)
    wanted = vouched if only is None else {name: vouched[name] for name in only if name in vouched}
    paths = {name: folder / name for name in wanted}
    for name, path in paths.items():
        if not path.is_file():
            raise Damaged(f"{path} is missing, which {folder / COMPLETE} vouches for")
        if path.stat().st_size != wanted[name]["bytes"]:
            raise Damaged(
                f"{path} is damaged: it has {path.stat().st_size:,} bytes, and "
                f"{wanted[name]['bytes']:,} were written"
            )
    for name, digest in _digests(paths).items():
        if digest != wanted[name]["sha256"]:
            raise Damaged(f"{paths[name]} is damaged: its SHA-256 is not that of what was written")


def vouched_files(folder: Path) -> dict[str, dict[str, Any]]:
    """What the marker says: name -> ``bytes`` and ``sha256``; empty where it says nothing.

    Raises:
        Damaged: the marker itself was changed.
    """
    marker = folder / COMPLETE
    text = marker.read_text(encoding="utf-8", errors="replace") if marker.is_file() else ""
    if not text:
        return {}
    try:
        value = json.loads(text)
        check_sealed(marker, value)
        return dict(value["files"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{marker} is damaged: it is not what was written") from error


def _vouched(folder: Path) -> list[Path]:
    is_checkpoint = (folder / "trainer_state.json").exists()
    paths = folder.rglob("*") if is_checkpoint else folder.glob("*")
    return sorted(
        path
        for path in paths
        if path.is_file() and path.name not in NOT_VOUCHED and not path.name.startswith(".")
    )


def _digests(paths: dict[str, Path]) -> dict[str, str]:
    if sum(path.stat().st_size for path in paths.values()) < THREADS_PAY:
        return {name: sha256_of_file(path) for name, path in paths.items()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets go of the interpreter
        return dict(zip(paths, pool.map(sha256_of_file, paths.values()), strict=True))
