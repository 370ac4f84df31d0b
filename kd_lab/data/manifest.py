"""The manifest of a folder that ``kd-lab`` wrote, with the checksum of every file."""

import json
from pathlib import Path
from typing import Any

from kd_lab.files import check_sealed, sha256_of_file

MANIFEST = "manifest.json"
KIND = "conversations"  # what the manifest of `kd-lab data` and `kd-lab questions` says it is of


def check_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder that `kd-lab data` wrote, after a check of its files.

    Returns:
        None if the folder has none.
    Raises:
        ValueError: a file is missing or changed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"{folder / MANIFEST}: not JSON: {error}") from error
    if not isinstance(manifest, dict):
        return None
    if len({"kind", "settings", "files"} & manifest.keys()) > 1:  # ours, or it was before a change
        check_sealed(folder / MANIFEST, manifest)
    if manifest.get("kind") != KIND:
        return None
    for name, written in manifest["files"].items():
        file = folder / name
        if not file.exists() or sha256_of_file(file) != written["sha256"]:
            raise ValueError(
                f"{file} is not what `kd-lab data` wrote: delete {folder} and write it anew (or "
                f"only {MANIFEST}, if the change was meant)"
            )
    return manifest
