"""Names of models and runs that look like markup, formulas or cells: they stay text.

Each file is compared with that of a plain name: as many lines, cells and tags, and one picture as
good as the other.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from kd_lab.runs.run_folder import finish_run
from tests.hardening.cases import Case
from tests.hardening.commands import Said, ran
from tests.helpers.written_runs import write_run

KIND = "names"
NAMES = (
    "<img src=x onerror=alert(1)>|=$\\frac{$", "two\nlines", "=1+2", "a|b|c", "@sum", "$\\frac{$",
    "`code`",
    "<|im_end|>", "[bold red]x[/]", "![x](y)",
)  # fmt: skip
PLAIN = "plain"
BAR = re.compile(r"(?<!\\)\|")


def names_as_text(folder: Path, count: int = len(NAMES)) -> Iterator[Case]:
    """A report, its table, its pictures and a card for each of the first ``count`` names.

    Args:
        folder: an empty one, or one that is not there.
    """
    plain = _written(folder / "plain", PLAIN)
    for number, name in enumerate(NAMES[:count]):
        said, files = _written(folder / str(number), name)
        for file, shape in plain[1].items():
            found = files.get(file)
            outcome = "held" if found == shape and said.code == 0 else "silent"
            if "Traceback" in said.err:
                outcome = "traceback"
            elif said.code != 0:
                outcome = "lost"
            message = said.end if said.code != 0 else f"not as with a plain name: {found}"
            yield Case(KIND, f"{name!r} in {file}", outcome, "" if outcome == "held" else message)


def _written(folder: Path, name: str) -> tuple[Said, dict[str, object]]:
    """What ``report`` said, and the shape of each file that has the name in it."""
    folder.mkdir(parents=True)
    words = [f"--model_name_or_path=runs/{name}", f"--run_name={name}"]
    runs = [write_run(folder / f"{kind}-1", {}, *words) for kind in ("sft", "rkl")]
    finish_run(runs[0])
    _, metadata, card = (runs[0] / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    (runs[0] / "complete").unlink()
    said = ran(folder, ("report", *(run.name for run in runs), "--output_dir", "report"))
    if said.code != 0:
        return said, {}
    report = folder / "report"
    with (report / "table.csv").open(newline="", encoding="utf-8") as file:
        cells = list(csv.reader(file))
    svg = (report / "differences.svg").read_text(encoding="utf-8")
    return said, {
        "report.md": _shape((report / "report.md").read_text(encoding="utf-8")),
        "table.csv": (
            [len(row) for row in cells],
            [c for row in cells for c in row if _formula(c)],
        ),
        "differences.png": (report / "differences.png").stat().st_size > 1000,
        "differences.svg": ("<img" in svg, "</svg>" in svg),
        "README.md": (_shape(card), [*yaml.safe_load(metadata)]),
    }


def _shape(text: str) -> list[tuple[int, int, bool]]:
    """Of each line: its bars, its tags, and whether it is a heading."""
    return [
        (len(BAR.findall(line)), len(re.findall("<[a-z|/]", line)), line.startswith("#"))
        for line in text.splitlines()
    ]


def _formula(cell: str) -> bool:
    """Whether a spreadsheet takes a cell for a formula; a number is none."""
    return cell.startswith(("=", "+", "-", "@")) and not re.fullmatch(r"[+-][\d.,e]+", cell)
