"""The two wheels that a notebook needs where there is no project: kd-lab and kd-lab-book.

    python -m book.wheels FOLDER    # in the project's folder

A notebook's first cell installs them from there.
"""

import subprocess
import sys
from pathlib import Path

from kd_lab import __version__

NAMES = ("kd_lab", "kd_lab_book")
PROJECTS = (".", "book")  # each has a pyproject.toml


def wheel_names() -> list[str]:
    """The files' names, of this version."""
    return [f"{name}-{__version__}-py3-none-any.whl" for name in NAMES]


def build_wheels(project: Path, folder: Path) -> list[Path]:
    """Build both wheels into a folder.

    Args:
        project: the project's folder.
    Returns:
        their paths.
    Raises:
        RuntimeError: hatchling failed; the message is its last line.
    """
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    for part in PROJECTS:
        done = subprocess.run(
            [*build, "--directory", str(folder.resolve())],
            cwd=project / part,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(
                f"no wheel of {project / part}: {done.stderr.strip().splitlines()[-1]}"
            )
    return [folder / name for name in wheel_names()]


if __name__ == "__main__":
    print(*build_wheels(Path.cwd(), Path(sys.argv[1])), sep="\n")
