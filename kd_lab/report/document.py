"""report.md: the tables and pictures of a report, and how to read them."""

from collections.abc import Collection, Sequence

from kd_lab.evaluation.metrics import TABLES
from kd_lab.report.comparisons import SIGNIFICANT, Comparison
from kd_lab.report.plots import logged_curves
from kd_lab.report.published import PublishedRow
from kd_lab.report.runs import Row
from kd_lab.report.table import (
    Cells,
    TableRow,
    markdown_differences,
    markdown_row,
    markdown_speed,
    markdown_table,
)
from kd_lab.runs.safe_text import in_markdown

MAIN, FIDELITY, MODES = TABLES

HOW_TO_READ = f"""\
A row is one objective: a point of the map *prefix source × divergence*, with its share of SFT. The
prefix source wrote the training answers: the dataset, the teacher or the student (mixed: the
student writes a share λ).
FKL is forward KL, D(p‖q), and RKL reverse KL, D(q‖p); *teacher × SFT* is SeqKD, and *policy
gradient* MiniLLM's. Both KLs of the table are to the teacher, in nats per token of the references.

A cell is the mean with its 95% bootstrap interval over the test examples. A row with several seeds
also has the standard deviation between them; mean and interval are those of the mean over seeds.
The interval says how far other test examples would move the figure, the deviation how far another
training seed would. Arrows point to the better side.

**Bold** is the best of its column among the students of one size, if it differs significantly from
each of the others. Significant means: a paired bootstrap over the test examples gives p below
{SIGNIFICANT:g} after Holm's adjustment for the COMPARISONS comparisons of all columns, and every
seed of the one row lies beyond every seed of the other. A column without bold has no such best."""

PUBLISHED = """

Beside them each row names the student q before training, the teacher p, both sizes, and the method.
Rows marked *published* are those of Table 1 in the post: one figure each, without intervals. No
comparison here uses them. The post swaps its columns of sizes; corrected, the students q are the
1.5B and the teacher p the 7B."""

NOTES = {
    FIDELITY: """
Sequence-level KLs are of whole answers, in nats an answer: the sum of the token-level KLs along
answers that the teacher (forward) or the student (reverse) sampled. The others are means over the
references' tokens.""",
    MODES: """
All are of the sampled answers.""",
}
WITH_GRAMMAR = """
The first three are exact: the student's distribution on all true answers against the grammar's,
in nats a question; the second given that the student stays in the grammar. The others are of the
sampled answers."""

DIFFERENCES = f"""\
![Differences to SFT with intervals, a panel a metric](differences.png)

The row's mean less that of SFT from the same start, over the same examples; its 95% interval;
and p after Holm's adjustment for these COMPARISONS comparisons. Bold, and filled in the picture: p
below {SIGNIFICANT:g}, and every seed of the row beyond every seed of SFT."""
NO_DIFFERENCES = "No run here is SFT (`alpha: 0`) from the same start as another."

CURVES = """\
![Forward and reverse KL on held-out conversations over the steps of training](training_curves.png)

Nats per token on held-out conversations: the mean over seeds, and from the lowest to the highest
seed."""
NO_CURVES = """\
No run logged both divergences while it trained: that takes `eval_strategy: steps` and a
`teacher_model_name_or_path` (for SFT too)."""

COVERAGE_PRECISION = """\
![Coverage against precision, one point per run](coverage_precision.png)

Precision is the share of the sampled answers that the grammar can say. Coverage is the share of the
true probability mass on answers to which the student gives at least a tenth of their due. Who seeks
modes goes right and down, who covers them left and up."""
NO_COVERAGE_PRECISION = "Known on the toy language only, which has a grammar."


def report_markdown(
    rows: Sequence[Row],
    table_rows: Sequence[TableRow],
    best: Cells,
    num_best_comparisons: int,
    differences: Sequence[Comparison],
    pictures: Collection[str],
) -> str:
    """The text of report.md.

    Args:
        rows: the report's rows.
        table_rows: the same, with the published rows.
        best, num_best_comparisons: from ``best_of_columns``.
        differences: from ``differences_to_sft``.
        pictures: names of the pictures that were drawn.
    """
    examples = rows[0].runs[0].evaluation["test_set"]["examples"]
    how_to_read = HOW_TO_READ.replace("COMPARISONS", f"{num_best_comparisons:,}")
    beside_published = any(isinstance(row, PublishedRow) for row in table_rows)
    if beside_published:
        how_to_read += PUBLISHED
    difference_text = NO_DIFFERENCES
    if differences:
        difference_text = DIFFERENCES.replace("COMPARISONS", f"{len(differences):,}")
        difference_text += "\n\n" + markdown_differences(differences)
    sections = {
        MAIN: markdown_table(table_rows, MAIN, best, whole=beside_published) + "\n\n" + how_to_read,
        "Differences to SFT": difference_text,
        "Training curves": _curves(rows) if "training_curves" in pictures else NO_CURVES,
        "Coverage against precision": (
            COVERAGE_PRECISION if "coverage_precision" in pictures else NO_COVERAGE_PRECISION
        ),
        **{
            name: f"{table}\n{WITH_GRAMMAR if 'grammar' in table else note}"
            for name, note in NOTES.items()
            if (table := markdown_table(rows, name, best))
        },
        "Size and speed": markdown_speed(rows),
        "The runs": _markdown_runs(rows),
    }
    head = (
        f"# Report\n\n{sum(len(row.runs) for row in rows)} runs of {len(rows)} "
        f"recipes, evaluated on the same {examples:,} test examples.\n"
    )
    return head + "".join(f"\n## {name}\n\n{text}\n" for name, text in sections.items() if text)


def _curves(rows: Sequence[Row]) -> str:
    without = [r.name for r in rows if not r.gives and r.config and logged_curves(r) is None]
    return CURVES + (f" Not logged by: {'; '.join(without)}." if without else "")


def _markdown_runs(rows: Sequence[Row]) -> str:
    """The origin of each row; its folders hold all that is needed to repeat it."""
    lines = [
        markdown_row(["recipe", "seed", "folder", "steps", "commit"]),
        markdown_row(["---", "--:", "---", "--:", "---"]),
    ]
    for row in rows:
        for run in row.runs:
            versions = run.evaluation["versions"]
            commit = (versions["git_commit"] or "")[:12]
            lines.append(
                markdown_row(
                    [
                        in_markdown(row.name),
                        str(run.config.get("seed", "")),
                        f"`{in_markdown(str(run.folder))}`",
                        str(run.log[-1]["step"]) if run.log else "",
                        commit + (", changed" if commit and versions["git_dirty"] else ""),
                    ]
                )
            )
    return "\n".join(lines)
