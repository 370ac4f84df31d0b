"""What a teacher's k likeliest tokens say of it, on a real pretrained model.

The teacher and a student of the smol study are compared on the answers that the teacher wrote to
its test questions:

    kd-lab demo --study smol
    python -m kd_lab.study.topk_tail runs/demo-smol --output assets/results/topk_tail_smol.json

Two students stand for two stages. One is far from its teacher: half its layers, after 50 steps of
token-level forward KL. The other is near: the teacher itself at another temperature, which differs
from it everywhere by a little, and so as much in the tail as a student ever will.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from kd_lab.evaluation.models import Model, shared_size
from kd_lab.evaluation.topk_teacher import bytes_per_token, compare_topk
from kd_lab.run_folder import COMPLETE, run_versions, write_whole
from kd_lab.smollm2 import FOLDER
from kd_lab.teacher.packed_rows import PackedRows
from kd_lab.teacher.stored import stored_answers

STUDENT = "token_fkl-1"  # of the smol study
NEAR_TEMPERATURE = 1.25
KS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def topk_tail_study(
    student: Model,
    teacher: Model,
    rows: PackedRows,
    ks: Sequence[int] = KS,
    advance: Callable[[int], object] = lambda done: None,
) -> dict[str, Any]:
    """All figures, for both students.

    Args:
        rows: answers that the teacher wrote.
        ks: tokens kept.
        advance: called with the number of tokens compared since; each is compared twice.
    Returns:
        ``students``: "far" and "near", each as ``TopkComparison.to_json`` has it;
        ``bytes_per_token``: of a cache, by k, and ``hidden_bytes_per_token``; ``vocab_size``,
        ``near_temperature``, ``student``, ``teacher`` and ``versions``.
    Raises:
        ValueError: as ``compare_topk``, or two models of different tokenizers.
    """
    vocab_size = shared_size(student, teacher)
    students = {}
    for name, model, temperature in (
        ("far", student.model, 1.0),
        ("near", teacher.model, NEAR_TEMPERATURE),
    ):
        compared = compare_topk(
            model, teacher.model, rows, ks,
            vocab_size=vocab_size, student_temperature=temperature, advance=advance,
        )  # fmt: skip
        students[name] = compared.to_json()
    return {
        "students": students,
        "bytes_per_token": {str(k): bytes_per_token(k, vocab_size) for k in ks},
        "hidden_bytes_per_token": 2 * teacher.model.get_output_embeddings().weight.shape[1],
        "vocab_size": vocab_size,
        "near_temperature": NEAR_TEMPERATURE,
        "student": student.identity,
        "teacher": teacher.identity,
        "versions": run_versions({}),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kd_lab.study.topk_tail", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="of a finished smol study; it is only read")
    parser.add_argument(
        "--teacher", type=Path, default=FOLDER, metavar="DIR", help=f"default: {FOLDER}"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON")
    arguments = parser.parse_args(argv)
    try:
        if not (arguments.folder / STUDENT / COMPLETE).exists():
            raise ValueError(
                f"{arguments.folder} holds no finished {STUDENT}: give the folder of "
                "`kd-lab demo --study smol`"
            )
        student = Model(str(arguments.folder / STUDENT), None, "float32")
        teacher = Model(str(arguments.teacher), None, "float32")
        rows = PackedRows.of(stored_answers(arguments.folder / "test_answers"))
        total = 2 * int(rows.predicts_trained().sum())
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("top k", total=total)
            study = topk_tail_study(
                student, teacher, rows, advance=lambda done: progress.advance(task, done)
            )
        write_whole(arguments.output, json.dumps(study, indent=1) + "\n")
    except (ValueError, OSError) as refusal:
        print(f"kd_lab.study.topk_tail: error: {refusal}", file=sys.stderr)
        return 2
    print(f"wrote {arguments.output}: {study['students']['far']['tokens']:,} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
