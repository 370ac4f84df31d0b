"""How much a teacher's k likeliest tokens say about it, for a real pretrained model.

It compares the teacher and a student of the smol study on the teacher's own test answers:

    kd-lab demo --study smol
    python -m evidence topk_tail runs/demo-smol

Two students stand for two stages. One is far from its teacher: half its layers, after 50 steps of
token-level forward KL. The other is near: the teacher itself at another temperature. It differs
from the teacher a little at every token, also in the tail.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from evidence.topk_versions import bytes_per_token, compare_topk
from kd_lab.data.packed_rows import PackedRows
from kd_lab.models import Model, shared_size
from kd_lab.runs.run_files import COMPLETE
from kd_lab.runs.versions import run_versions
from kd_lab.smollm2 import FOLDER, check_whole
from kd_lab.teacher.stored import stored_answers

STUDENT = "token_fkl-1"  # of the smol study
NEAR_TEMPERATURE = 1.25
KS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def measure(runs: Path) -> dict[str, Any]:
    """Compare the student of the smol study with SmolLM2.

    Raises:
        ValueError: the student is missing or not finished, or SmolLM2 is not fetched.
    """
    if not (runs / STUDENT / COMPLETE).exists():
        raise ValueError(
            f"{runs} holds no finished {STUDENT}: give the folder of `kd-lab demo --study smol`"
        )
    check_whole()
    student = Model(str(runs / STUDENT), None, "float32")
    teacher = Model(str(FOLDER), None, "float32")
    rows = PackedRows.of(stored_answers(runs / "test_answers"))
    total = 2 * int(rows.predicts_trained().sum())
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("top k", total=total)
        return topk_tail_study(
            student, teacher, rows, advance=lambda done: progress.advance(task, done)
        )


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
        ks: how many tokens are kept.
        advance: called with the number of tokens compared since the last call; each token is
            compared twice.
    Returns:
        - ``students``: "far" and "near", as ``TopkComparison.to_json`` writes them.
        - ``bytes_per_token``: of a cache, by k.
        - ``hidden_bytes_per_token``, ``vocab_size``, ``near_temperature``, ``student``, ``teacher``
          and ``versions``.
    Raises:
        ValueError: as ``compare_topk``, or the tokenizers differ.
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
