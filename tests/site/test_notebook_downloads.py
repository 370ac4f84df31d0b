"""A notebook to download needs nothing of the folder it came from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from book.notebook_top import install_cell

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
SITE = "https://host.invalid/kd/"


@pytest.fixture(autouse=True)
def extensions(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(REPOSITORY / "site" / "_ext"))
    yield
    for name in ("notebook_downloads", "notebook_pages"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize(("site", "repository"), [("", ""), (SITE, "someone/kd")])
def test_nothing_leads_into_a_folder_that_is_not_there(path, site, repository):
    from notebook_downloads import download

    notebook = json.loads(path.read_text(encoding="utf-8"))
    written = download(notebook, site, repository)
    for cell in written["cells"]:
        assert "../" not in "".join(cell["source"])
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
    assert "widgets" not in written["metadata"]
    wheels = f"{SITE}_static/wheels/" if site else "."
    assert written["cells"][1] == install_cell(wheels)


def test_without_addresses_pictures_and_links_are_words_and_with_them_they_lead_there():
    from notebook_downloads import addressed

    text = (
        'See [`toy/`](../toy) and\n<img src="../assets/a.gif" width="4" alt="A dot: it moves.">\n'
        "![A line](../assets/b.jpg) [b](02_b.ipynb)"
    )
    assert addressed(text, "", "") == (
        "See `toy/` and\n(Picture, on this notebook's page: A dot: it moves.)\n"
        "(Picture, on this notebook's page: A line) [b](02_b.ipynb)"
    )
    assert addressed(text, SITE, "someone/kd") == (
        "See [`toy/`](https://github.com/someone/kd/blob/main/toy) and\n"
        f'<img src="{SITE}_images/a.webp" alt="A dot: it moves.">\n'
        f'<img src="{SITE}_images/b.jpg" alt="A line"> [b](02_b.ipynb)'
    )


@pytest.mark.parametrize("site", ["", SITE])
def test_a_page_says_where_its_notebook_runs(tmp_path, site):
    pytest.importorskip("myst_nb")
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path[:0] = {[str(REPOSITORY / 'site' / '_ext'), str(REPOSITORY)]}\n"
        "extensions = ['myst_nb', 'notebook_pages']\nnb_execution_mode = 'off'\n"
        f"html_baseurl = {site!r}\nrepository_on_github = {'someone/kd' if site else ''!r}\n"
    )
    (tmp_path / "index.md").write_text("# All\n\n```{toctree}\nnotebooks/a\n```\n")
    title = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# A title"}
    state = {"version_major": 2, "version_minor": 0, "state": {"a": {"model_name": "Kept"}}}
    notebook = {
        "cells": [title, install_cell()],
        "metadata": {"widgets": {"application/vnd.jupyter.widget-state+json": state}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "a.ipynb").write_text(json.dumps(notebook))
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", ".", "built"]
    subprocess.run(build, cwd=tmp_path, check=True)
    page = (tmp_path / "built" / "notebooks" / "a.html").read_text(encoding="utf-8")
    assert "Download this notebook" in page
    assert "WHEELS" not in page
    assert "Kept" not in page
    colab = "https://colab.research.google.com/github/someone/kd/blob/main/notebooks/a.ipynb"
    assert (f'href="{colab}"' in page) == bool(site)
    assert ("_static/wheels/kd_lab_book-" in page) == (not site)
