"""The versions behind a run: git commit, libraries, devices."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "datasets", "peft", "deepspeed", "numpy")


def run_versions(config: Mapping[str, Any]) -> dict[str, Any]:
    """The versions behind a run: Python, libraries, git commit, seed, devices, processes."""
    commit, dirty = _git_commit()
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "libraries": {
            name: version for name in ("kd-lab", *LIBRARIES) if (version := _version(name))
        },
        "git_commit": commit,
        "git_dirty": dirty,
        "seed": config.get("seed"),
        "devices": _devices(),
        "processes": process_count(),
    }


def process_count() -> int:
    """The processes of this training, as its launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@functools.cache  # parsing a package's metadata takes 1 to 3 ms
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package runs from, and whether it has changes.

    The figures in assets/ do not count. ``make demo`` draws them, which another processor rounds
    otherwise, and then trains. assets/results/ counts.
    """

    here = Path(__file__).parent
    try:
        if not _is_checked_in(here):
            return None, None
        status = _git(
            here, "status", "--porcelain=v2", "--branch", "--", ":/", ":(top,exclude,glob)assets/*"
        ).splitlines()
        (commit,) = (line.split()[2] for line in status if line.startswith("# branch.oid "))
        if commit == "(initial)":  # there is none yet
            return None, None
        return commit, not all(line.startswith("# ") for line in status)
    except (OSError, subprocess.CalledProcessError):
        return None, None


@functools.cache
def _is_checked_in(package: Path) -> bool:
    """Whether a repository has the package itself, and is not only around its environment."""
    return bool(_git(package, "ls-files", "__init__.py"))


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "--no-optional-locks", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def _devices() -> list[str]:
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [f"cpu, {torch.get_num_threads()} threads of {os.cpu_count()}"]
