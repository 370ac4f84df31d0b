"""The tables of a report, in Markdown, as CSV and for the terminal; all from the same cells."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from kd_lab.evaluation.metrics import METRICS, TABLES, Metric
from kd_lab.report.comparisons import SIGNIFICANT, Comparison, figure
from kd_lab.report.published import PublishedRow
from kd_lab.report.runs import Row, count
from kd_lab.runs.safe_text import in_csv, in_markdown

TableRow = Row | PublishedRow
Cells = set[tuple[str, str]]  # (name of the row, name of the metric)

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
CELL_WIDTH, NAME_WIDTH = 15, 30  # in the terminal: "*-2.5104 ±0.012"


@dataclass
class Notes:
    """Footnotes: the reasons of empty cells, each once."""

    reasons: list[str] = field(default_factory=list)

    def mark(self, reason: str) -> str:
        """The sign in the cell."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return str(self.reasons.index(reason) + 1).translate(SUPERSCRIPTS)

    def lines(self) -> list[str]:
        """The notes, as lines below a table."""
        return [f"{self.mark(reason)} {reason}." for reason in self.reasons]


def columns(rows: Sequence[Row], table: str) -> list[Metric]:
    """A table's metrics: those that some run has, or gives a reason for not having."""
    return [
        metric
        for metric in TABLES[table]
        if any(
            metric.name in run.evaluation["metrics"] or metric.name in run.evaluation["missing"]
            for row in rows
            for run in row.runs
        )
    ]


def markdown_table(
    rows: Sequence[TableRow], table: str, best: Cells, *, whole: bool = False
) -> str:
    """One of the tables, with its footnotes.

    Args:
        best: from ``best_of_columns``; drawn in bold.
        whole: with q, p and sizes as in the post's Table 1, and not only the name and the seeds.
    """
    notes = Notes()
    metrics = columns(_ours(rows), table)
    if not metrics:
        return ""
    words = (
        ["q", "p", "size of q", "size of p", "loss", "method", "seeds"] if whole else ["", "seeds"]
    )
    lines = [
        markdown_row([*words, *(metric.heading for metric in metrics)]),
        markdown_row(["---"] * len(words) + ["--:"] * len(metrics)),
    ]
    for row in rows:
        cells = [_markdown_cell(row, metric, best, notes) for metric in metrics]
        words = _words(row) if whole else [in_markdown(row.name), _words(row)[-1]]
        lines.append(markdown_row([*words, *cells]))
    below = [*notes.lines(), *_notes_of(rows, metrics)]
    return "\n".join([*lines, *(f"\n{note}" for note in below)])


def markdown_differences(comparisons: Sequence[Comparison]) -> str:
    """Differences to SFT: a line for each row, a column for each metric; significant in bold."""
    metrics = list(dict.fromkeys(comparison.metric for comparison in comparisons))
    names = list(dict.fromkeys(comparison.row.name for comparison in comparisons))
    compared = {(c.row.name, c.metric): c for c in comparisons}
    lines = [
        markdown_row(["", *(metric.heading for metric in metrics)]),
        markdown_row(["---", *["--:"] * len(metrics)]),
    ]
    for name in names:
        cells = []
        for metric in metrics:
            if (name, metric) not in compared:
                cells.append("")
                continue
            _, _, _, difference, p, significant = compared[name, metric]
            mean, low, high = (_signed(x, metric.digits) for x in difference[:3])
            mean = f"**{mean}**" if significant else mean
            cells.append(f"{mean}<br>{low} to {high}<br>p {_p_value(p)}")
        lines.append(markdown_row([in_markdown(name), *cells]))
    return "\n".join(lines)


def markdown_speed(rows: Sequence[Row]) -> str:
    """The gain of distillation: parameters and tokens/s of student and teacher, in one line."""
    lines = [
        markdown_row(
            ["", "size of q", "size of p", "tokens/s of q", "tokens/s of p", "times as fast"]
        ),
        markdown_row(["---", *["--:"] * 5]),
    ]
    for row in rows:
        speeds = [run.evaluation["speed"] for run in row.runs]
        if row.is_teacher or not all("teacher" in speed for speed in speeds):
            continue
        q, p = (
            sum(speed[side]["tokens_per_second"] for speed in speeds) / len(speeds)
            for side in ("student", "teacher")
        )
        sizes = count(row.parameters), count(speeds[0]["teacher"]["parameters"])
        lines.append(
            markdown_row([in_markdown(row.name), *sizes, f"{q:,.0f}", f"{p:,.0f}", f"{q / p:.2f}"])
        )
    if len(lines) == 2:
        return ""
    speed = rows[-1].speed
    summary = (
        f"\nTokens/s of {speed['batch_size']} answers at a time, of {speed['tokens_each']} tokens, "
        f"on {speed['student']['device']}. Read the ratio: load differs from run to run."
    )
    return "\n".join([*lines, summary])


def csv_table(rows: Sequence[TableRow], best: Cells) -> str:
    """All metrics of all rows in full precision; an empty cell where there is no value."""
    ours = _ours(rows)
    had = [metric for metric in METRICS if any(row.has(metric.name) for row in ours)]
    file = io.StringIO()
    head = ["name", "q", "p", "size_q", "size_p", "loss", "method", "published", "seeds"]
    parts = ("", "_low", "_high", "_seed_sd", "_best")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*head, *(metric.name + part for metric in had for part in parts)])
    for row in rows:
        if isinstance(row, PublishedRow):
            sizes: tuple[object, object] = row.size, row.teacher_size
            line = [row.name, row.q, row.p, *sizes, row.loss, row.method, True, ""]
            figures: list[list[object]] = [[row.score(metric.name), *[""] * 4] for metric in had]
        else:
            sizes = row.parameters, row.teacher_parameters if row.p else ""
            name, q, p, loss = (in_csv(text) for text in (row.name, row.q, row.p, row.loss))
            line = [name, q, p, *sizes, loss, row.method, False, len(row.runs)]
            figures = [_csv_cells(row, metric, best) for metric in had]
        writer.writerow([*line, *(part for one in figures for part in one)])
    return file.getvalue()


def print_table(console: Console, rows: Sequence[TableRow], table: str, best: Cells) -> None:
    """A table in the terminal, in as many parts as the width needs.

    Columns without any value go to the footnotes.
    """
    notes = Notes()
    names = [row.name for row in rows]
    name_width = min(max(map(len, names)), NAME_WIDTH)
    filled = []
    for metric in columns(_ours(rows), table):
        cells = [_terminal_cell(row, metric, best, notes) for row in rows]
        if any(figure(row, metric) for row in _ours(rows)):
            filled.append((metric.heading, cells))
    fit = max(1, (console.width - name_width) // (CELL_WIDTH + 2))
    for first in range(0, len(filled), fit):
        part = filled[first : first + fit]
        shown = RichTable(box=None, header_style="bold", pad_edge=False)
        shown.add_column("", width=name_width)
        for heading, _ in part:
            shown.add_column(heading, justify="right", min_width=CELL_WIDTH)
        for row_number, name in enumerate(names):
            # A Text, since [brackets] of a folder's name are no markup.
            shown.add_row(Text(name), *(cells[row_number] for _, cells in part))
        console.print(shown, "")
    for note in [
        *notes.lines(),
        *_notes_of(rows, columns(_ours(rows), table)),
        "± half the 95% interval over test examples; * best, significantly",
    ]:
        console.print(note, highlight=False, markup=False)


def markdown_row(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(row: TableRow, metric: Metric, best: Cells, notes: Notes) -> str:
    """Mean (bold where best), interval, and the spread where there are seeds."""
    digits = metric.digits
    if isinstance(row, PublishedRow):
        score = row.score(metric.name)
        return "" if score is None else f"{score:.{digits}f}"
    value = figure(row, metric)
    if value is None:
        return _mark_of_empty(row, metric, notes)
    mean, low, high = (f"{x:z.{digits}f}" for x in value[:3])
    lines = [f"**{mean}**" if (row.name, metric.name) in best else mean, f"{low} to {high}"]
    if value.seeds.n > 1:
        lines.append(f"seeds ±{value.seeds.sd:.{digits}f}")
    return "<br>".join(lines)


def _terminal_cell(row: TableRow, metric: Metric, best: Cells, notes: Notes) -> Text:
    digits = metric.digits
    if isinstance(row, PublishedRow):
        score = row.score(metric.name)
        return Text("" if score is None else f"{score:.{digits}f}" + " " * (digits + 4))
    value = figure(row, metric)
    if value is None:
        return Text(_mark_of_empty(row, metric, notes))
    cell = f"{value.mean:z.{digits}f} ±{(value.high - value.low) / 2:.{digits}f}"
    is_best = (row.name, metric.name) in best
    return Text(f"*{cell}" if is_best else cell, style="bold green" if is_best else "")


def _mark_of_empty(row: Row, metric: Metric, notes: Notes) -> str:
    """The footnote of an empty cell; none for a teacher against itself."""
    if metric.of_teacher and row.is_teacher:
        return ""
    if metric.of_teacher and row.teacher is None:
        return notes.mark("Evaluated without a teacher")
    reason = next(
        run.evaluation["missing"].get(metric.name, "not measured")
        for run in row.runs
        if metric.name not in run.evaluation["metrics"]
    )
    return notes.mark(f"{metric.label}: {reason}")


def _notes_of(rows: Sequence[TableRow], metrics: Sequence[Metric]) -> list[str]:
    """What must be known of the metrics that some row has."""
    ours = _ours(rows)
    return [m.note for m in metrics if m.note and any(row.has(m.name) for row in ours)]


def _words(row: TableRow) -> list[str]:
    if isinstance(row, PublishedRow):
        return [row.q, row.p, row.size, row.teacher_size, row.loss, row.method, "*published*"]
    teacher_size = count(row.teacher_parameters) if row.p and row.teacher_parameters else ""
    sizes = count(row.parameters), teacher_size
    q, p, loss = (in_markdown(text) for text in (row.q, row.p, row.loss))
    return [q, p, *sizes, loss, row.method, str(len(row.runs))]


def _ours(rows: Sequence[TableRow]) -> list[Row]:
    return [row for row in rows if isinstance(row, Row)]


def _signed(x: float, digits: int) -> str:
    """With its sign, unless it is rounded to 0."""
    text = f"{x:+.{digits}f}"
    return text if float(text) else text[1:]


def _p_value(p: float) -> str:
    """With so many digits that it stays on its side of the level: 0.0498 is not 0.050."""
    if p < 0.001:
        return "< 0.001"
    digits = 3
    while (float(text := f"{p:.{digits}f}") < SIGNIFICANT) != (p < SIGNIFICANT):
        digits += 1
    return text


def _csv_cells(row: Row, metric: Metric, best: Cells) -> list[object]:
    found = figure(row, metric)
    if found is None:
        return [""] * 5
    sd = found.seeds.sd if found.seeds.n > 1 else ""
    return [found.mean, found.low, found.high, sd, (row.name, metric.name) in best]
