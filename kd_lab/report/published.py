"""The rows that the post published in its Table 1, beside which ours of Qwen2.5 stand.

One figure each, of one seed, without intervals. The post's columns of sizes are swapped: put right
here, the student q is the 1.5B and the teacher p the 7B.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kd_lab.report.metrics import TABLE_1
from kd_lab.report.runs import Recipe


class PublishedRow(NamedTuple):
    """A row of Table 1 in the words of ours; q and p as the recipes in qwen2.5/ name them."""

    q: str
    p: str
    size: str  # of q
    teacher_size: str
    loss: str
    scores: tuple[float, float, float, float]  # as in TABLE_1

    @property
    def name(self) -> str:
        return f"published: {self.loss}, q = {self.q}"

    def score(self, metric: str) -> float | None:
        """What was published of a metric; None: nothing."""
        names = [metric.name for metric in TABLE_1]
        return self.scores[names.index(metric)] if metric in names else None


INSTRUCT, TEACHER = "Qwen2.5-1.5B-Instruct", "Qwen2.5-7B-Instruct"
PUBLISHED = (
    PublishedRow(TEACHER, "", "7B", "", "not trained here", (0.4613, 0.2059, 0.2705, -2.5047)),
    PublishedRow("Qwen2.5-1.5B", "", "1.5B", "", "SFT", (0.5295, 0.2562, 0.3414, -2.5242)),
    PublishedRow("Qwen2.5-7B", "", "7B", "", "SFT", (0.5576, 0.2830, 0.3640, -2.4594)),
    PublishedRow(
        INSTRUCT, TEACHER, "1.5B", "7B", "0.5 SFT + 0.5 dataset × FKL",
        (0.5369, 0.2595, 0.3435, -2.5134),
    ),
    PublishedRow(
        "ultra_1.5b", TEACHER, "1.5B", "7B", "0.5 SFT + 0.5 dataset × FKL",
        (0.5404, 0.2615, 0.3463, -2.5104),
    ),
    PublishedRow(
        "ultra_1.5b", TEACHER, "1.5B", "7B", "0.8 SFT + 0.2 dataset × FKL",
        (0.5292, 0.2567, 0.3406, -2.5235),
    ),
    PublishedRow(
        "ultra_1.5b", TEACHER, "1.5B", "7B", "0.5 SFT + 0.5 dataset × RKL",
        (0.5291, 0.2558, 0.3408, -2.5211),
    ),
)  # fmt: skip


def with_published(recipes: Sequence[Recipe]) -> list[Recipe | PublishedRow]:
    """The rows of the table: after each of ours what was published of the same, then the others.

    Nothing is added where no run is one of Qwen2.5.
    """
    if not any(_is_qwen(recipe) for recipe in recipes):
        return list(recipes)
    rows: list[Recipe | PublishedRow] = []
    for recipe in recipes:
        rows.append(recipe)
        rows += [row for row in PUBLISHED if _same(recipe, row) and row not in rows]
    return rows + [row for row in PUBLISHED if row not in rows]


def _same(recipe: Recipe, row: PublishedRow) -> bool:
    point = recipe.loss.partition(" (")[0]
    return (recipe.q, recipe.p, point) == (row.q, row.p, row.loss)


def _is_qwen(recipe: Recipe) -> bool:
    names = (recipe.q, recipe.p, str(recipe.config.get("output_dir", "")))
    return any("qwen2.5" in name.lower() for name in names)
