"""A name is text wherever it is written, whatever it looks like."""

import csv
import re
from pathlib import Path

import pytest

from kd_lab.cli import main
from kd_lab.runs.safe_text import in_csv, in_markdown, in_plot
from tests.helpers.written_runs import write_run

EVIL = [
    "<img src=x onerror=alert(1)>", "a|b|c", "two\nlines", "=1+2", "@sum", "$\\frac{$", "`code`",
    "<|im_end|>",
]  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_a_name_is_one_line_without_markup(name):
    text = in_markdown(name)
    assert "\n" not in text
    assert "<" not in text
    assert not re.search(r"(?<!\\)\|", text)


def test_a_formula_is_no_formula_in_a_spreadsheet_or_a_plot():
    assert in_csv("=1+2") == "'=1+2"
    assert in_csv("start") == "start"
    assert in_plot("$x$") == r"\$x\$"


@pytest.mark.parametrize("name", EVIL)
def test_a_report_on_a_model_of_such_a_name_is_whole(name, tmp_path, monkeypatch):
    """Its table has its columns, its pictures are drawn, and no cell begins a formula."""
    monkeypatch.chdir(tmp_path)
    start = f"--model_name_or_path=runs/{name.replace('/', '')}"
    runs = [write_run(Path(f"{kind}-1"), {}, start) for kind in ("sft", "rkl")]
    assert main(["report", *map(str, runs), "--output_dir", "report"]) == 0
    text = Path("report/report.md").read_text()
    assert "<img" not in text
    table = text.split("## The table")[1].split("\n\n")[1].splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    with Path("report/table.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "@"))]
    assert Path("report/differences.png").stat().st_size > 1000
