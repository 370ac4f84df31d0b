"""``kd-lab report``: a study of many runs in one table and a few pictures.

    kd-lab report runs/tiny/* --output_dir runs/report

Each run is a folder in which ``kd-lab evaluate`` left its ``evaluation.json``. Written are
report.md, table.csv and the pictures as PNG and SVG; the main table is printed too.
"""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from kd_lab.files import write_bytes
from kd_lab.report.comparisons import best_of_columns, differences_to_sft
from kd_lab.report.document import MAIN, report_markdown
from kd_lab.report.plots import draw_all
from kd_lab.report.published import with_published
from kd_lab.report.runs import read_rows
from kd_lab.report.table import csv_table, print_table

REPORT, TABLE = "report.md", "table.csv"


@dataclass
class ReportArguments:
    """Which runs, and where to."""

    runs: list[str] = field(
        metadata={"help": "Folders of runs, each with the evaluation.json of kd-lab evaluate."}
    )
    output_dir: str = field(default="report", metadata={"help": "Where the report goes."})


ARGUMENTS = (ReportArguments,)


def run(args: ReportArguments) -> None:
    """Write the report and print its main table.

    Raises:
        ValueError: in one line, what is wrong with a run; an earlier report stays as it was.
    """
    rows = read_rows(args.runs)
    lines = with_published(rows)
    best, num_comparisons = best_of_columns(rows)
    differences = differences_to_sft(rows)
    pictures = draw_all(rows, differences)
    text = report_markdown(rows, lines, best, num_comparisons, differences, pictures)
    files = {REPORT: text.encode(), TABLE: csv_table(lines, best).encode()}
    for drawn in pictures.values():
        files |= drawn
    folder = Path(args.output_dir)
    for name, content in files.items():
        write_bytes(folder / name, content)
    console = Console()
    print_table(console, lines, MAIN, best)
    print(f"wrote {', '.join(files)} to {folder}")
