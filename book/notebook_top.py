"""What every notebook begins with: a line that says what it costs, and a cell that installs it.

    python -m book.notebook_top notebooks/*.ipynb    # writes both anew
    python -m book.notebook_top --site https://HOST/ --repository OWNER/NAME notebooks/*.ipynb

The cell does nothing where the project is. Elsewhere it installs both wheels from the folder or the
address in ``WHEELS``. With ``--site`` that is the address of the built site, which has the wheels;
with ``--repository`` the line has a link that opens the notebook in Colab from GitHub.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from book.asset_files import asset
from book.wheels import wheel_names
from kd_lab.files import write_text

WHEELS_OF_SITE = "_static/wheels/"
COSTS = "results/notebook_cost.json"
LINE = re.compile(r"\A(# .+\n)(?:\n\*Running it takes [^*\n]*\*(.*)\n)?")
INSTALL = f"""\
WHEELS = "."  # a folder or an address that has the wheels kd-lab and kd-lab-book
try:
    import book.asset_files
except ModuleNotFoundError:
    import shlex, subprocess, sys

    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    wheels = "{" ".join(wheel_names())}".split()
    both = [WHEELS.rstrip("/") + "/" + wheel for wheel in wheels]
    for what in (["--no-deps", *both], ["kd-lab-book"]):  # first these two, then what they need
        done = subprocess.run([*pip, *what], capture_output=True, text=True)
        if done.returncode:
            command, why = shlex.join([*pip, *what]), done.stderr.strip().splitlines()[-1]
            raise SystemExit(
                f"Put both wheels into {{WHEELS}}, or set WHEELS. Failed: {{command}} ({{why}})"
            )"""


def install_cell(wheels: str = ".") -> dict[str, Any]:
    """The first code cell, not run yet; no page of the site shows it.

    Args:
        wheels: a folder or an address that has both wheels.
    """
    source = INSTALL.replace('"."', json.dumps(wheels), 1)
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": "install",
        "metadata": {"tags": ["remove-cell"]},
        "outputs": [],
        "source": source.splitlines(keepends=True),
    }


def cost_line(notebook: str) -> str:
    """The line under the title.

    Args:
        notebook: the file's name without its ending.
    Raises:
        ValueError: nobody has measured this notebook.
    """
    costs = json.loads(asset(COSTS).read_text(encoding="utf-8"))["notebooks"]
    if notebook not in costs:
        command = f"python -m book.run_notebooks notebooks/{notebook}.ipynb"
        raise ValueError(f"assets/{COSTS} has no {notebook}: `{command}` measures it")
    cost = costs[notebook]
    memory = math.ceil(10 * cost["peak_memory_gib"]) / 10
    time = _time(cost["cpu_seconds"])
    return f"*Running it takes {time} of one CPU core, and {memory:.1f} GiB of memory.*"


def colab_address(notebook: str, repository: str) -> str:
    """Where Colab opens a notebook of GitHub; ``repository`` is OWNER/NAME there."""
    github = f"https://colab.research.google.com/github/{repository}"
    return f"{github}/blob/main/notebooks/{notebook}.ipynb"


def with_line(cells: list[dict[str, Any]], line: str, link: str = "") -> list[dict[str, Any]]:
    """The cells of a notebook with the line under its title.

    Args:
        link: stands behind the line; without one, a link that stood there stays.
    """
    title, *rest = cells
    text = LINE.sub(
        lambda old: f"{old[1]}\n{line}{f' {link}' if link else old[2] or ''}\n",
        "".join(title["source"]),
    )
    return [title | {"source": text.splitlines(keepends=True)}, *rest]


def with_install_cell(cells: list[dict[str, Any]], wheels: str) -> list[dict[str, Any]]:
    """The cells with the install cell below the first one, or in the place of an old one."""
    title, second, *rest = cells
    new = install_cell(wheels)
    if second.get("id") != new["id"]:
        return [title, new, second, *rest]
    return [title, second | {"source": new["source"]}, *rest]


def _time(seconds: float) -> str:
    """In tens of seconds, or in minutes; never less than measured."""
    if seconds <= 90:
        return f"{10 * math.ceil(seconds / 10)} seconds"
    return f"{math.ceil(seconds / 60)} minutes"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the top of each notebook named."""
    parser = argparse.ArgumentParser(
        prog="python -m book.notebook_top", description="Write what notebooks begin with."
    )
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    parser.add_argument(
        "--site", default="", help="address of the built site, which has the wheels"
    )
    parser.add_argument("--repository", default="", help="OWNER/NAME on GitHub, for Colab")
    words = parser.parse_args(argv)
    wheels = f"{words.site.rstrip('/')}/{WHEELS_OF_SITE}" if words.site else "."
    for path in words.notebooks:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        address = colab_address(path.stem, words.repository)
        link = f"[Open in Colab]({address})" if words.repository else ""
        cells = with_line(notebook["cells"], cost_line(path.stem), link)
        cells = with_install_cell(cells, wheels)
        write_text(
            path, json.dumps(notebook | {"cells": cells}, ensure_ascii=False, indent=1) + "\n"
        )
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
