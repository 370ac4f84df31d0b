"""One check in a process of its own: a GPU that it leaves in a bad state is lost to it alone.

    python -m benchmarks.gpu.worker loss cuda OUT.json

``__main__.py`` starts one for each check.
"""

import dataclasses
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.checks import BY_NAME, Check
from benchmarks.gpu.figure import Figure
from kd_lab.files import write_text


def measure(check: Check, device: str) -> Iterator[Figure]:
    """The figures of a check one by one, on the device that this process has."""
    from benchmarks.gpu.machine import Machine  # imports torch

    module = importlib.import_module(f"benchmarks.gpu.{check.name}")
    yield from module.measure(Machine.of(device))


def main(name: str, device: str, out: str) -> None:
    figures = []
    for figure in measure(BY_NAME[name], device):
        figures.append(dataclasses.asdict(figure))
        write_text(Path(out), json.dumps(figures))  # what was measured before an error is kept


if __name__ == "__main__":
    main(*sys.argv[1:])
