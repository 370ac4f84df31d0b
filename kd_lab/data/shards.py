"""A folder of checksummed shards: a long run fills it, and goes on there after a kill.

    manifest.json               what is stored, with all settings that decide its bytes
    shard-00000.jsonl           rows 0 to rows_per_shard - 1
    shard-00000.jsonl.sidecar   its SHA-256, written last: without it there is no shard

A file is written under a hidden name, forced to disk and renamed; then its sidecar likewise. So at
any moment a shard is whole or missing. The same command again writes only the missing ones. The
checksum finds a byte that flips later: it names the shard, a writer repeats it, and a reader
refuses it. The sidecar also records the settings and rows of its shard, so a file copied from
elsewhere is no shard either.
"""

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_lab.files import (
    check_sealed,
    delete_parts,
    replace_file,
    sealed,
    sha256_of,
    sha256_of_file,
    write_text,
)

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SIDECAR = ".sidecar"
SIDECAR_SEAL = "sidecar_sha256"  # a sidecar's key for the digest of its other values
COMMANDS = {  # which writes what kind
    "answers": "kd-lab generate", "cache": "kd-lab cache", "conversations": "kd-lab data",
}  # fmt: skip
PARTS = {"kind", "settings", "num_rows", "rows_per_shard", "suffix"}  # of a store's manifest


@dataclass(frozen=True)
class Shard:
    """Consecutive rows in one file."""

    index: int
    rows: range


class ShardStore:
    """A folder of shards; get one from ``create`` (to write) or ``open`` (to read).

    Several processes may write to one store, each its own shards: a process out of ``n`` takes the
    missing shards with ``shard.index % n == rank``.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest

    @classmethod
    def create(
        cls,
        folder: str | Path,
        kind: str,
        settings: dict[str, Any],
        num_rows: int,
        rows_per_shard: int,
        suffix: str,
    ) -> "ShardStore":
        """Begin a store, or go on with the one in the folder.

        Args:
            kind: "answers" or "cache".
            settings: all that decides the content of the shards, as JSON values.
            suffix: of the shards' files, ".jsonl" or ".safetensors".
        Raises:
            ValueError: the folder holds a store of other settings (names the first that differs,
                with both values) or other files, or cannot be written. Or a number of rows is not
                positive.
        """
        folder = Path(folder)
        if num_rows < 1 or rows_per_shard < 1:
            raise ValueError(f"{folder}: nothing to store ({num_rows} rows, {rows_per_shard} each)")
        wanted = {
            "kind": kind,
            "settings": json.loads(json.dumps(settings)),
            "num_rows": num_rows,
            "rows_per_shard": rows_per_shard,
            "suffix": suffix,
        }
        if (folder / MANIFEST).exists():
            store = cls(folder, _read_manifest(folder, _command(wanted)))
            difference = _first_difference(store.manifest, wanted)
            if difference:
                key, stored, asked = difference
                raise ValueError(
                    f"{folder} was written with {key} = {stored}, and now it is {asked}: shards of "
                    "different settings are not mixed; choose another folder, or delete this one"
                )
            return store
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot write to {folder}: {error.strerror}") from error
        visible = sorted(path.name for path in folder.glob("[!.]*"))
        if visible:
            raise ValueError(
                f"{folder} has no {MANIFEST} but other files ({visible[0]}); choose a new folder"
            )
        store = cls(folder, wanted)
        store._save_manifest()
        return store

    @classmethod
    def open(cls, folder: str | Path, kind: str, verify: bool = True) -> "ShardStore":
        """A finished store, to read.

        Args:
            verify: read every shard once and check its checksum. If several processes open one
                store, one of them needs to verify.
        Raises:
            ValueError: no store of this kind, also what ``kd-lab evaluate`` stores for itself; an
                unfinished one (with the number of its shards); or a corrupted shard (named). The
                message has the command to run.
        """
        folder, command = Path(folder), COMMANDS[kind]
        store = cls(folder, _read_manifest(folder, command))
        shards = store.shards()
        absent = [shard for shard in shards if not store._is_there(store.path(shard))]
        if absent:
            raise ValueError(
                f"{folder} is not finished: it lacks {store.path(absent[0]).name} or its "
                f"{SIDECAR}, and {len(shards) - len(absent)} of {len(shards)} shards are there; "
                f"run the same `{command}` again, which goes on where it stopped"
            )
        corrupted = store._corrupted(shards) if verify else []
        if corrupted:
            names = ", ".join(store.path(shard).name for shard in corrupted[:5])
            raise ValueError(
                f"{folder}: {names} {'differs' if len(corrupted) == 1 else 'differ'} from what was "
                f"written; run the same `{command}` again, which redoes "
                f"{'this shard' if len(corrupted) == 1 else f'these {len(corrupted)} shards'} only"
            )
        return store

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the store was created with."""
        return self.manifest["settings"]

    @property
    def num_rows(self) -> int:
        """The rows of all shards together."""
        return self.manifest["num_rows"]

    def shards(self) -> list[Shard]:
        """All shards, written or not, in order."""
        total, size = self.manifest["num_rows"], self.manifest["rows_per_shard"]
        return [
            Shard(index, range(start, min(start + size, total)))
            for index, start in enumerate(range(0, total, size))
        ]

    def path(self, shard: Shard) -> Path:
        """The shard's file."""
        return self.folder / f"shard-{shard.index:05d}{self.manifest['suffix']}"

    def paths(self) -> list[Path]:
        """The files of all shards, in order."""
        return [self.path(shard) for shard in self.shards()]

    def missing(self) -> list[Shard]:
        """The shards to write; a corrupted one is among them, with a warning."""
        there = [shard for shard in self.shards() if self._is_there(self.path(shard))]
        corrupted = self._corrupted(there)
        for shard in corrupted:
            logger.warning("%s differs from what was written; it is done again", self.path(shard))
        whole = {shard.index for shard in there} - {shard.index for shard in corrupted}
        return [shard for shard in self.shards() if shard.index not in whole]

    def write(self, shard: Shard, save: Callable[[Path], Any], tokens: int) -> None:
        """Store one shard: ``save(path)`` writes its bytes, ``tokens`` is how many it holds."""
        path = self.path(shard)
        self._write(path, save, {"rows": [shard.rows.start, shard.rows.stop], "tokens": tokens})

    def attach(self, name: str, save: Callable[[Path], Any]) -> None:
        """Store one more file, checksummed like a shard; a whole one is kept."""
        path = self.folder / name
        if not self.has_attached(name):
            if self._is_there(path):
                logger.warning("%s differs from what was written; it is done again", path)
            self._write(path, save, {"rows": None, "tokens": 0})

    def has_attached(self, name: str) -> bool:
        """Whether an attached file exists, unchanged."""
        path = self.folder / name
        return self._is_there(path) and self._is_whole(path, rows=None)

    def attached(self, name: str) -> Path:
        """The path of an attached file.

        Raises:
            ValueError: it is missing or changed.
        """
        path = self.folder / name
        if not self.has_attached(name):
            raise ValueError(
                f"{path} is missing or differs from what was written; run the same "
                f"`{COMMANDS[self.manifest['kind']]}` again, which redoes it"
            )
        return path

    def is_finished(self) -> bool:
        """Whether every shard has been written (without a look at checksums)."""
        return all(map(self._is_there, self.paths()))

    def finish(self) -> dict[str, float]:
        """Add up all shards and note it in the manifest.

        Returns:
            the manifest's ``totals``: rows, tokens, bytes (of the shards' files), bytes_per_token.
        """
        paths = self.paths()
        tokens = sum(_read_sidecar(path)["tokens"] for path in paths)
        size = sum(path.stat().st_size for path in paths)
        self.manifest["totals"] = {
            "rows": self.num_rows,
            "tokens": tokens,
            "bytes": size,
            "bytes_per_token": round(size / max(tokens, 1), 2),
        }
        self._save_manifest()
        return self.manifest["totals"]

    def _write(self, path: Path, save: Callable[[Path], Any], about: dict[str, Any]) -> None:
        delete_parts(path)
        replace_file(path, save)
        about |= {"settings": self._fingerprint(), "sha256": sha256_of_file(path)}
        write_text(_sidecar(path), json.dumps(about | {SIDECAR_SEAL: _seal(about)}) + "\n")

    def _save_manifest(self) -> None:
        text = json.dumps(sealed(self.manifest), indent=1, ensure_ascii=False) + "\n"
        write_text(self.folder / MANIFEST, text)

    def _fingerprint(self) -> str:
        described = [self.manifest["kind"], self.settings]
        return sha256_of(json.dumps(described, sort_keys=True))

    def _is_there(self, path: Path) -> bool:
        return path.exists() and _sidecar(path).exists()

    def _corrupted(self, shards: list[Shard]) -> list[Shard]:
        def is_whole(shard: Shard) -> bool:
            return self._is_whole(self.path(shard), [shard.rows.start, shard.rows.stop])

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets go of the interpreter
            whole = list(pool.map(is_whole, shards))
        return [shard for shard, fine in zip(shards, whole, strict=True) if not fine]

    def _is_whole(self, path: Path, rows: list[int] | None) -> bool:
        try:
            about = _read_sidecar(path)
        except ValueError:  # the sidecar itself is broken
            return False
        sealed_by = about.pop(SIDECAR_SEAL, None)  # sidecars of the first edition have none
        return sealed_by in (None, _seal(about)) and about == {
            "rows": rows,
            "tokens": about.get("tokens"),
            "settings": self._fingerprint(),
            "sha256": sha256_of_file(path),
        }


def written_by_command(folder: Path) -> str | None:
    """The command that wrote a folder, by its manifest; None where there is none that says so."""
    try:
        return _command(json.loads((folder / MANIFEST).read_bytes()))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _command(manifest: dict[str, Any]) -> str:
    """The command that wrote what a manifest is of, or the manifest's own word for it."""
    kind = str(manifest["kind"])
    if kind == "answers" and "writer" in manifest.get("settings", ()):
        return "kd-lab evaluate"  # which stores the answers that it measures for itself alone
    if kind == "conversations" and "teacher" in manifest:
        return "kd-lab questions"
    return COMMANDS.get(kind, kind)


def _read_manifest(folder: Path, command: str) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.exists():
        raise ValueError(f"{folder} is not a folder that `{command}` wrote: it has no {MANIFEST}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        written = _command(manifest)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete the folder") from error
    check_sealed(path, manifest)
    if written != command:
        raise ValueError(
            f"{folder} was written by `{written}`, where what `{command}` writes is needed"
        )
    if lacking := sorted(PARTS - manifest.keys()):
        raise ValueError(f"{path} cannot be read (it has no {lacking[0]!r}); delete the folder")
    return manifest


def _first_difference(
    stored: dict[str, Any], asked: dict[str, Any], prefix: str = ""
) -> tuple[str, str, str] | None:
    """The first key, dotted, whose value differs, and both values.

    At the top, keys that are only stored do not count: the totals are there.
    """
    for key in asked if not prefix else [*asked, *(stored.keys() - asked.keys())]:
        old, new = stored.get(key, "not set"), asked.get(key, "not set")
        name = f"{prefix}{key}".removeprefix("settings.")
        if isinstance(old, dict) and isinstance(new, dict):
            nested = _first_difference(old, new, f"{prefix}{key}.")
            if nested:
                return nested
        elif old != new:
            return name, repr(old), repr(new)
    return None


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + SIDECAR)


def _read_sidecar(path: Path) -> dict[str, Any]:
    about = json.loads(_sidecar(path).read_text(encoding="utf-8"))
    if not isinstance(about, dict):
        raise ValueError(f"{_sidecar(path)} holds no mapping")
    return about


def _seal(about: dict[str, Any]) -> str:
    """The digest of a sidecar's other values."""
    return sha256_of(json.dumps(about, sort_keys=True))
