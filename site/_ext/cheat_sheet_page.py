"""``{cheat-sheet}`` on a page of the site stands for the tables of ``book.cheat_sheet``."""

from sphinx.application import Sphinx

from book.cheat_sheet import page

LINE = "{cheat-sheet}\n"


def expand(app: Sphinx, docname: str, source: list[str]) -> None:
    """Sphinx's source-read event."""
    if docname.startswith("site/") and LINE in source[0]:
        source[0] = source[0].replace(LINE, page() + "\n")


def setup(app: Sphinx) -> dict:
    app.connect("source-read", expand)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
