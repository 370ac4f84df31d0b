"""Every metric that a report shows: its heading, which way is better, and its table.

A metric of the answers to one prompt is one function and one entry: ``of_answers`` computes it,
``kd-lab evaluate`` measures it and ``kd-lab report`` shows it. measurements.py computes the metrics
that need models, or all answers at once; they have their entries here too.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from kd_lab.evaluation.overlap import distinct, repetition


class Metric(NamedTuple):
    """A metric of evaluation.json and how a report shows it."""

    name: str
    label: str
    better: int  # 1: more is better, -1: less is, 0: neither; only the first two have a best
    digits: int = 3  # after the point
    of_teacher: bool = False  # compares with a teacher, so only between students of the same one
    # The value of one example, from all answers to its prompt and the reference.
    of_answers: Callable[[Sequence[str], str], float] | None = None
    note: str = ""  # what a reader of the number must know, a sentence below its table

    @property
    def heading(self) -> str:
        """Its label, with an arrow to the better side."""
        return self.label + {1: " ↑", -1: " ↓", 0: ""}[self.better]


def _distinct1(answers: Sequence[str], reference: str) -> float:
    return distinct(answers, 1)


def _distinct2(answers: Sequence[str], reference: str) -> float:
    return distinct(answers, 2)


def _repetition(answers: Sequence[str], reference: str) -> float:
    return float(np.mean([repetition(answer) for answer in answers]))


# Table 1 of the post, to its four digits.
TABLE_1 = (
    Metric("rouge1", "ROUGE-1", 1, 4),
    Metric("rouge2", "ROUGE-2", 1, 4),
    Metric("rougeL", "ROUGE-L", 1, 4),
    Metric("bartscore", "BARTScore", 1, 4),
)
DIRECTIONS = (
    Metric("forward_kl", "forward KL", -1, 4, of_teacher=True),
    Metric("reverse_kl", "reverse KL", -1, 4, of_teacher=True),
)
MODES = (
    Metric("precision", "precision", 1),
    Metric("coverage", "coverage", 1),
    Metric("hallucination", "hallucination", -1),
)

CALIBRATION_NOTE = (
    "Calibration error: a calibrated model has not 0 but up to 1.55/√N by chance, for N tokens "
    "(0.02 of 3,600). The interval has this bias too."
)

TABLES: dict[str, tuple[Metric, ...]] = {
    "The table": (*MODES, *TABLE_1, *DIRECTIONS),  # on the toy language the modes say most
    "Fidelity to the teacher": (
        Metric("sequence_forward_kl_rao_blackwell", "sequence forward KL", -1, of_teacher=True),
        Metric("sequence_reverse_kl_rao_blackwell", "sequence reverse KL", -1, of_teacher=True),
        Metric("jensen_shannon", "JSD", -1, 4, of_teacher=True),
        Metric("total_variation", "TVD", -1, 4, of_teacher=True),
        Metric("top1_agreement", "top-1 agreement", 1, of_teacher=True),
        Metric("student_calibration_error", "calibration error", -1, note=CALIBRATION_NOTE),
        Metric("student_entropy", "entropy", 0),
    ),
    "Modes and variety": (
        Metric("grammar_forward_kl", "D(grammar‖q)", -1),
        Metric("grammar_reverse_kl_inside", "D(q‖grammar), inside", -1),
        Metric("outside_mass", "mass outside the grammar", -1),
        Metric("distinct1", "distinct-1", 0, of_answers=_distinct1),
        Metric("distinct2", "distinct-2", 0, of_answers=_distinct2),
        Metric("self_bleu", "self-BLEU", 0),
        Metric("repetition", "repetition", -1, of_answers=_repetition),
        Metric("answer_tokens", "tokens an answer", 0, 1),
    ),
}
METRICS = tuple(metric for table in TABLES.values() for metric in table)

# A report compares the first six measured ones with SFT: on the toy language the grammar's metrics,
# elsewhere the post's.
COMPARED = (*DIRECTIONS, *MODES, TABLE_1[2], TABLE_1[0], TABLE_1[1], TABLE_1[3])
NUM_COMPARED = 6
