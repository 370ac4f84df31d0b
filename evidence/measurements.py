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
    needed: tuple[str, ...]  # the tasks whose results it reads, as patterns of their names
    compact: bool = False  # JSON without indents, for a page that loads it


EVALUATED = ("evaluate *",)
MEASUREMENTS = {
    "additions": Measurement(
        "evidence.additions:measure", "additions",
        "what later additions to the map change, paired by seed", EVALUATED,
    ),
    "heads_and_tails": Measurement(
        "evidence.heads_and_tails:measure", "smol",
        "gaps to the teacher on head and tail, by step",
        ("generate train_answers", "generate test_answers"),
    ),
    "listing": Measurement(
        "evidence.listing:measure", "toy",
        "what the post's two code listings do", ("train teacher", "train start"),
    ),
    "method_pairs_smol": Measurement(
        "evidence.method_pairs:measure_smol", "smol",
        "differences between methods, paired, on SmolLM2", EVALUATED,
    ),
    "method_pairs_toy": Measurement(
        "evidence.method_pairs:measure_toy", "toy",
        "the same on the toy language", EVALUATED,
    ),
    "sequence_gradients": Measurement(
        "evidence.gradients.sequence_gradients:measure", "toy",
        "gradients of sequence-level reverse KL by sampling",
        ("train teacher", "train sft-*", "train seq_rkl-*"),
    ),
    "stored_teacher": Measurement(
        "evidence.stored_teacher:measure", "toy",
        "the bytes that a stored teacher takes on disk", ("train teacher",),
    ),
    "token_pages": Measurement(
        "evidence.token_pages:measure", "toy",
        "what each model expects next in the same answers",
        ("train teacher", "train start", "train *-1"), compact=True,
    ),
    "topk_tail": Measurement(
        "evidence.topk_tail:measure", "smol",
        "what the teacher's k likeliest tokens keep of a KL",
        ("train token_fkl-1", "generate test_answers"),
    ),
}  # fmt: skip


def take(name: str, runs: Path) -> Path:
    """Take a measurement and write it.

    Returns:
        the path of the JSON.
    Raises:
        ValueError, OSError: runs are missing, not finished or of --quick; nothing is written.
    """
    measurement = MEASUREMENTS[name]
    resolve_name("evidence.study_folder:check_study")(measurement.study, runs, measurement.needed)
    found = resolve_name(measurement.function)(runs)
    layout: dict[str, Any] = {"separators": (",", ":")} if measurement.compact else {"indent": 1}
    path = RESULTS / f"{name}.json"
    write_text(path, json.dumps(found, ensure_ascii=False, **layout) + "\n")
    return path
