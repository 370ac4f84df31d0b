"""Runs notebooks, keeps their outputs, and writes what each of them cost.

    python -m book.run_notebooks notebooks/*.ipynb    # in the project's folder

Seconds of the processor and peak memory are those of the kernel and its processes, on one thread.
They go to ``assets/results/notebook_cost.json`` and into the line under each notebook's title. A
new notebook gets the cell of ``notebook_top.py`` that installs the project.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from book.notebook_top import COSTS, cost_line, install_cell, with_line
from kd_lab.files import write_text
from kd_lab.machine.peak_memory import largest_child_peak, own_peak

RESULT = Path("assets", COSTS)
# The last cell of a notebook while it is measured.
QUESTION = "from book.run_notebooks import print_cost\nprint_cost()"


def print_cost() -> None:
    """Print what this process and its finished children took: ``{"cpu_seconds", ...}``."""
    took = os.times()
    seconds = took.user + took.system + took.children_user + took.children_system
    peak = max(own_peak(), largest_child_peak() or 0) / 2**30
    print(json.dumps({"cpu_seconds": round(seconds, 1), "peak_memory_gib": round(peak, 2)}))


def run(path: Path) -> dict[str, float]:
    """Run a notebook from its own folder and write its outputs into it; a new one gets its top.

    Returns:
        ``cpu_seconds`` and ``peak_memory_gib``.
    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the file stays as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    cell = install_cell()
    install = nbformat.from_dict(cell | {"source": "".join(cell["source"])})
    if install.id not in [cell.get("id") for cell in notebook.cells]:  # a new notebook
        notebook.cells.insert(1, install)
    notebook.cells.append(nbformat.v4.new_code_cell(QUESTION))
    client = NotebookClient(
        notebook, timeout=None, record_timing=False, resources={"metadata": {"path": path.parent}}
    )
    client.execute()
    cost = json.loads(notebook.cells.pop().outputs[0]["text"])
    write_text(path, nbformat.writes(notebook) + "\n")
    return cost


def main(argv: Sequence[str] | None = None) -> None:
    """Run each notebook named; one that fails leaves the rest of them as they are."""
    parser = argparse.ArgumentParser(
        prog="python -m book.run_notebooks", description="Run notebooks and measure their cost."
    )
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    os.environ["OMP_NUM_THREADS"] = "1"
    for path in parser.parse_args(argv).notebooks:
        cost = run(path)
        known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
        costs = dict(sorted({**known.get("notebooks", {}), path.stem: cost}.items()))
        write_text(RESULT, json.dumps({"threads": 1, "notebooks": costs}, indent=1) + "\n")
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["cells"] = with_line(notebook["cells"], cost_line(path.stem))
        write_text(path, json.dumps(notebook, ensure_ascii=False, indent=1) + "\n")
        print(f"{path}: {cost}", file=sys.stderr)


if __name__ == "__main__":
    main()
