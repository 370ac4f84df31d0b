"""Notebooks to download, and the wheels that they install.

A download is to be run, so it comes without the outputs, which its page shows. Its links lead to
the repository and its pictures come from the site, where conf.py knows the addresses. Elsewhere
they are words. Its first cell takes the wheels from the site, or from the notebook's own folder.
"""

import json
import re
from pathlib import Path

from sphinx.application import Sphinx

from book.notebook_top import WHEELS_OF_SITE, with_install_cell
from book.wheels import build_wheels

PICTURE = re.compile(
    r'<img src="\.\./assets/(?P<a>[^"]+)"[^>]*? alt="(?P<seen_a>[^"]*)">'
    r"|!\[(?P<seen_b>[^]]*)\]\(\.\./assets/(?P<b>[^)]+)\)"
)
LINK = re.compile(r"\[([^]]+)\]\(\.\./([^)]+)\)")
CONVERTED = re.compile(r"\.(?:png|gif)$")  # pictures.py makes WebP of them


def write_downloads(app: Sphinx, error: Exception | None) -> None:
    """Sphinx's build-finished event."""
    if error is not None or app.builder.name != "html":
        return
    wheels = Path(app.outdir, WHEELS_OF_SITE)
    links = "\n".join(
        f'<a href="{path.name}">{path.name}</a>' for path in build_wheels(Path(app.srcdir), wheels)
    )
    page = f"<!DOCTYPE html>\n<title>Wheels</title>\n{links}\n"
    (wheels / "index.html").write_text(page, encoding="utf-8")
    for path in Path(app.outdir, "_downloads").glob("*/*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        written = download(notebook, app.config.html_baseurl, app.config.repository_on_github)
        path.write_text(json.dumps(written, ensure_ascii=False, indent=1), encoding="utf-8")


def download(notebook: dict, site: str, repository: str) -> dict:
    """A notebook as it is downloaded.

    Args:
        site: address of the built site, with a slash at its end; or nothing.
        repository: OWNER/NAME on GitHub; or nothing.
    """
    wheels = f"{site}{WHEELS_OF_SITE}" if site else "."
    cells = []
    for cell in with_install_cell(notebook["cells"], wheels):
        if cell["cell_type"] == "code":
            cell = cell | {"outputs": [], "execution_count": None}
        else:
            text = addressed("".join(cell["source"]), site, repository)
            cell = cell | {"source": text.splitlines(keepends=True)}
        cells.append(cell)
    metadata = {key: value for key, value in notebook["metadata"].items() if key != "widgets"}
    return notebook | {"cells": cells, "metadata": metadata}


def addressed(markdown: str, site: str, repository: str) -> str:
    """Markdown whose pictures and links do not need the repository's folder."""

    def picture(found: re.Match) -> str:
        seen, name = found["seen_a"] or found["seen_b"], found["a"] or found["b"]
        if not site:
            return f"(Picture, on this notebook's page: {seen})"
        return f'<img src="{site}_images/{CONVERTED.sub(".webp", name)}" alt="{seen}">'

    def link(found: re.Match) -> str:
        words, path = found.groups()
        if not repository:
            return words
        return f"[{words}](https://github.com/{repository}/blob/main/{path})"

    return LINK.sub(link, PICTURE.sub(picture, markdown))


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", write_downloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
