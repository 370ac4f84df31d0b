"""``kd-lab report``: a study of many runs in one table and a few pictures.

    kd-lab report runs/tiny/* --output_dir runs/report

Each run is a folder with the ``evaluation.json`` of ``kd-lab evaluate``. The command writes
report.md, table.csv and the pictures as PNG and SVG. It also prints the main table.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from kd_lab.files import delete_remains, only_one_at_work, whole_file
from kd_lab.report.comparisons import best_of_columns, differences_to_sft
from kd_lab.report.document import MAIN, report_markdown
from kd_lab.report.plots import FORMATS, PICTURES, draw_all
from kd_lab.report.published import with_published
from kd_lab.report.runs import read_rows
from kd_lab.report.table import csv_table, print_table

REPORT, TABLE = "report.md", "table.csv"


@dataclass
class ReportArguments:
    """The runs of a report, and its folder."""

    runs: list[str] = field(
        metadata={"help": "Folders of runs; each has the evaluation.json of kd-lab evaluate."}
    )
    output_dir: str = field(default="report", metadata={"help": "The folder of the report."})


ARGUMENTS = (ReportArguments,)


def run(args: ReportArguments) -> None:
    """Write the report and print its main table.

    Raises:
        ValueError: a fault of one run, in one line; an earlier report stays as it was.
    """
    with only_one_at_work(Path(args.output_dir)):
        _write(args)


def _write(args: ReportArguments) -> None:
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
    delete_remains(folder)
    with ExitStack() as all_or_none:  # a full disk leaves the earlier report as it was
        for name, content in files.items():
            all_or_none.enter_context(whole_file(folder / name)).write_bytes(content)
    for name in PICTURES:
        for suffix in FORMATS:
            if f"{name}.{suffix}" not in files:  # of an earlier report
                (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    console = Console()
    print_table(console, lines, MAIN, best)
    print(f"wrote {', '.join(files)} to {folder}")
