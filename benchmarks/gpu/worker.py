"""One check in a process of its own: a GPU that it leaves in a bad state is lost to it alone.

python -m benchmarks.gpu.worker loss cuda OUT.json
"""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

from benchmarks.gpu.checks import BY_NAME, Check
from benchmarks.gpu.figure import Figure


def measure(check: Check, device: str) -> list[Figure]:
    """The figures of a check, on the device that this process has."""
    from benchmarks.gpu.machine import Machine  # imports torch

    module = importlib.import_module(f"benchmarks.gpu.{check.name}")
    return list(module.measure(Machine.of(device)))


def main(name: str, device: str, out: str) -> None:
    figures = measure(BY_NAME[name], device)
    Path(out).write_text(json.dumps([dataclasses.asdict(figure) for figure in figures]))


if __name__ == "__main__":
    main(*sys.argv[1:])
