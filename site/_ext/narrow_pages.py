"""Narrow pages: code in tables and headings breaks at its signs; a cell of many words stays wide.

A browser breaks a path in the middle of a word where nothing else is left. ``<wbr>`` says where to
break first, and is no character: what a reader copies stays the path. Browsers break after a hyphen
too, which tears ``--option`` and ``kd-lab``: these stay whole. The style gives cells of the class
``wordy`` a least width where a row has four columns or more.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

WORDY = 60  # characters of a cell, from here on
CELL_OR_HEADING = re.compile(r"<(td|h[1-6])\b.*?</\1>", re.S)
LONG_CODE = re.compile(r'(?<=<span class="pre">)[^<]{16,}')
SIGN = re.compile(r"(?<=\w)(?:[/_=]+|\.(?!\w{2,4}$))(?=\w)")  # a file's ending stays with it
WHOLE = re.compile(r'(?<=<span class="pre">)(?:--?|kd-)[A-Za-z]+')


class WordyCells(SphinxTransform):
    """Gives a table's cells of many words their class."""

    default_priority = 800

    def apply(self) -> None:
        for cell in self.document.findall(nodes.entry):
            if len(cell.astext()) >= WORDY:
                cell["classes"].append("wordy")


def with_breaks(body: str) -> str:
    """A page's HTML with places where its code breaks, and others where it does not."""

    def in_code(code: re.Match) -> str:
        return SIGN.sub(lambda sign: f"{sign[0]}<wbr>", code[0])

    body = CELL_OR_HEADING.sub(lambda part: LONG_CODE.sub(in_code, part[0]), body)
    return WHOLE.sub(lambda word: f'<span class="whole">{word[0]}</span>', body)


def break_names(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Sphinx's html-page-context event."""
    if "body" in context:
        context["body"] = with_breaks(context["body"])


def setup(app: Sphinx) -> dict:
    app.add_transform(WordyCells)
    app.connect("html-page-context", break_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
