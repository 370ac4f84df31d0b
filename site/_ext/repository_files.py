"""Whole folders of small files on a page: recipes to read, results to take home.

``{recipes} FOLDER`` stands for a section with the text of each YAML file in it, ``{results}
FOLDER`` for a list of its numbers as downloads, each file with its size and with what the table in
the folder's README.md says of it, and ``{studies} FOLDER`` for a section with the report and the
numbers of each folder in it. What an explorable reads is on the site already and is linked there.
"""

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sphinx.application import Sphinx

LINE = re.compile(r"^\{(recipes|results|studies)\} (\S+)$", re.M)
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.M)
NUMBERS = (".json", ".jsonl", ".csv")
TITLES = {"smol_study": "SmolLM2-135M", "toy_study": "The toy language"}


def expand(app: Sphinx, docname: str, source: list[str]) -> None:
    """Sphinx's source-read event."""
    results = partial(_results, explorable=app.config.explorable_data)
    write = {"recipes": _recipes, "results": results, "studies": _studies}
    upwards = os.path.relpath(app.srcdir, Path(app.srcdir, docname).parent)
    if docname.startswith("site/"):
        source[0] = LINE.sub(
            lambda line: write[line[1]](Path(app.srcdir, line[2]), f"{upwards}/{line[2]}"),
            source[0],
        )


def _recipes(folder: Path, address: str) -> str:
    return "\n".join(
        f"### {folder.name}/{path.stem}\n\n"
        f"```{{literalinclude}} {address}/{path.name}\n:language: yaml\n```\n"
        for path in sorted(folder.glob("*.yaml"))
    )


def _results(folder: Path, address: str, explorable: Sequence[str] = ()) -> str:
    words = words_of_files(folder)
    return "\n".join(
        f"- {_link(path.name, address, path.name in explorable)}, "
        f"{max(1, round(path.stat().st_size / 1024))} kB{words.get(path.name, '')}"
        for path in sorted(folder.iterdir())
        if path.suffix in NUMBERS
    )


def words_of_files(folder: Path) -> dict[str, str]:
    """What each file of a folder holds, who writes it and where it is used, by its README.md."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    return {
        name: f": {holds} ({writer}; {place})" for name, holds, writer, place in ROW.findall(text)
    }


def _link(name: str, address: str, on_site: bool) -> str:
    if on_site:  # in HTML, since Sphinx takes no static file for the aim of a link
        return f'<a href="../_static/data/{name}" download>{name}</a>'
    return f"[{name}]({address}/{name})"


def _studies(folder: Path, address: str) -> str:
    studies = {
        TITLES.get(report.parent.name, report.parent.name): report.parent
        for report in sorted(folder.glob("*/report.md"))
    }
    sections = "\n\n".join(
        f"### {title}\n\n- [Report]({address}/{study.name}/report.md): table and plots\n"
        + _results(study, f"{address}/{study.name}")
        for title, study in studies.items()
    )
    tree = "\n".join(f"{title} <{address}/{study.name}/report>" for title, study in studies.items())
    return f"{sections}\n\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n"


def setup(app: Sphinx) -> dict:
    app.connect("source-read", expand)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
