"""A notebook to download needs nothing of the folder it came from."""

import json
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
    sys.modules.pop("notebook_downloads", None)


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
