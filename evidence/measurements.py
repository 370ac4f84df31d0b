"""Every measurement: its name, its function, and the finished runs that it reads.

A measurement reads a folder of finished runs and returns the content of
``assets/results/NAME.json``. NAME is the name of its module. ``method_pairs`` measures two studies
and adds their names to its own.
"""

import json
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

from kd_lab.files import write_text

RESULTS = Path("assets/results")


class Measurement(NamedTuple):
    """A function of a folder of runs, and the study that wrote them."""

    function: str  # MODULE:NAME of ``(runs: Path) -> dict``; imported only when it is called
    study: str  # of `kd-lab demo --study`, whose runs it reads
    line: str  # what it measures
    compact: bool = False  # JSON without indents, for a page that loads it


MEASUREMENTS = {
    "additions": Measurement(
        "evidence.additions:measure", "additions",
        "what later additions to the map change, paired by seed",
    ),
    "heads_and_tails": Measurement(
        "evidence.heads_and_tails:measure", "smol",
        "gaps to the teacher on head and tail, by step",
    ),
    "listing": Measurement(
        "evidence.listing:measure", "toy",
        "what the post's two code listings do",
    ),
    "method_pairs_smol": Measurement(
        "evidence.method_pairs:measure_smol", "smol",
        "differences between methods, paired, on SmolLM2",
    ),
    "method_pairs_toy": Measurement(
        "evidence.method_pairs:measure_toy", "toy",
        "the same on the toy language",
    ),
    "sequence_gradients": Measurement(
        "evidence.gradients.sequence_gradients:measure", "toy",
        "gradients of sequence-level reverse KL by sampling",
    ),
    "stored_teacher": Measurement(
        "evidence.stored_teacher:measure", "toy",
        "the bytes that a stored teacher takes on disk",
    ),
    "token_pages": Measurement(
        "evidence.token_pages:measure", "toy",
        "what each model expects next in the same answers", compact=True,
    ),
    "topk_tail": Measurement(
        "evidence.topk_tail:measure", "smol",
        "what the teacher's k likeliest tokens keep of a KL",
    ),
}  # fmt: skip


def take(name: str, runs: Path) -> Path:
    """Take a measurement and write it.

    Returns:
        the path of the JSON.
    Raises:
        ValueError, OSError: runs are missing or not finished; nothing is written.
    """
    measurement = MEASUREMENTS[name]
    found = resolve_name(measurement.function)(runs)
    layout: dict[str, Any] = {"separators": (",", ":")} if measurement.compact else {"indent": 1}
    path = RESULTS / f"{name}.json"
    write_text(path, json.dumps(found, ensure_ascii=False, **layout) + "\n")
    return path
