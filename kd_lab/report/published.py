"""The post's Table 1 as rows, to stand beside our rows of Qwen2.5.

The post gives one figure each, of one seed, without intervals. It swaps its columns of sizes; here
they are corrected: the student q is the 1.5B and the teacher p the 7B.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kd_lab.evaluation.metrics import TABLE_1
from kd_lab.methods import METHODS, Point, method_of
from kd_lab.report.runs import NOT_TRAINED, Row


class PublishedRow(NamedTuple):
    """A row of Table 1 on our map, with q and p named as in the recipes of qwen2.5/."""

    q: str
    p: str
    size: str  # of q
    teacher_size: str
    point: Point | None  # None: not trained by the post
    scores: tuple[float, float, float, float]  # as in TABLE_1

    @property
    def loss(self) -> str:
        """Its point in the words of our rows."""
        return self.point.short if self.point else NOT_TRAINED

    @property
    def method(self) -> str:
        """The named method at its point; "" where there is none."""
        return method_of(self.point) or "" if self.point else ""

    @property
    def name(self) -> str:
        return f"published: {self.loss}, q = {self.q}"

    def score(self, metric: str) -> float | None:
        """The published figure of a metric; None if there is none."""
        names = [metric.name for metric in TABLE_1]
        return self.scores[names.index(metric)] if metric in names else None


INSTRUCT, TEACHER = "Qwen2.5-1.5B-Instruct", "Qwen2.5-7B-Instruct"
SFT, HALF_FORWARD_KL = METHODS["sft"].point, Point(alpha=0.5)
PUBLISHED = (
    PublishedRow(TEACHER, "", "7B", "", None, (0.4613, 0.2059, 0.2705, -2.5047)),
    PublishedRow("Qwen2.5-1.5B", "", "1.5B", "", SFT, (0.5295, 0.2562, 0.3414, -2.5242)),
    PublishedRow("Qwen2.5-7B", "", "7B", "", SFT, (0.5576, 0.2830, 0.3640, -2.4594)),
    PublishedRow(
        INSTRUCT, TEACHER, "1.5B", "7B", HALF_FORWARD_KL, (0.5369, 0.2595, 0.3435, -2.5134)
    ),
    PublishedRow(
        "ultra_1.5b", TEACHER, "1.5B", "7B", HALF_FORWARD_KL, (0.5404, 0.2615, 0.3463, -2.5104)
    ),
    PublishedRow(
        "ultra_1.5b", TEACHER, "1.5B", "7B", Point(alpha=0.2), (0.5292, 0.2567, 0.3406, -2.5235)
    ),
    PublishedRow(
        "ultra_1.5b", TEACHER, "1.5B", "7B", Point(divergence="reverse_kl", alpha=0.5),
        (0.5291, 0.2558, 0.3408, -2.5211),
    ),
)  # fmt: skip


def with_published(rows: Sequence[Row]) -> list[Row | PublishedRow]:
    """The lines of the table: each of our rows, its published twin, then the other published rows.

    If no run is one of Qwen2.5, nothing is added.
    """
    if not any(_is_qwen(row) for row in rows):
        return list(rows)
    lines: list[Row | PublishedRow] = []
    for row in rows:
        lines.append(row)
        lines += [one for one in PUBLISHED if _same(row, one) and one not in lines]
    return lines + [one for one in PUBLISHED if one not in lines]


def _same(row: Row, published: PublishedRow) -> bool:
    return (row.q, row.p, row.point) == (published.q, published.p, published.point)


def _is_qwen(row: Row) -> bool:
    names = (row.q, row.p, str(row.config.get("output_dir", "")))
    return any("qwen2.5" in name.lower() for name in names)
