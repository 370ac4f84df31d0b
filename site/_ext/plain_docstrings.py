"""Docstrings written as plain text for those who read the code, turned into reStructuredText.

What they use is kept: Google's sections (napoleon's part), lists, ``code`` and *emphasis*. Indented
lines are shown as they stand, for they are tables and listings; signs that reStructuredText would
take for markup are the field's own (a|b, *, θ_) and are escaped; the numbers of arXiv become links,
and names of ours links to where they are described.
"""

import inspect
import re
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

SECTION = re.compile(
    r"^(Args|Arguments|Attributes|Example|Examples|Note|Raises|Returns|Yields):\s*$"
)
LIST_ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.)\s")
CODE = re.compile(r"(``.+?``)", re.S)
EMPHASIS = re.compile(r"(?<![\w*])\*(?=[^\s*])[^*`]*?(?<=[^\s*])\*(?![\w*])", re.S)
OURS = ("book", "evidence", "kd_lab", "toy")
OUR_NAME = re.compile(rf"``((?:{'|'.join(OURS)})(?:\.\w+)+)``")
LONGEST_SIGNATURE = 1000  # characters; a longer one is a dataclass of options
# Defaults of parameters: <factory>, <built-in function iter>, <function f at 0x7f>,
# <function C.<lambda> at 0x7f>, <class 'a.B'>
NO_PYTHON = re.compile(
    r"<(?:factory|[\w-]* ?(?:function|class) '?(?:\w+\.)*(?:<lambda>|(\w+))'?[^<>]*)>"
)
PATH = re.compile(rf"PosixPath\('(?:{re.escape(str(Path(__file__).parents[2]))}/)?([^']*)'\)")
# numpy's two names for annotations, which Python spells out.
ARRAY_LIKE = stringify_annotation(ArrayLike, "smart")
NDARRAY = re.compile(
    r"~numpy\.ndarray\[tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[([\w.~]+)\]\]"
)
ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")


def to_rst(docstring: list[str]) -> list[str]:
    """Lines of plain text in, lines of reStructuredText out."""
    written: list[str] = []
    prose: list[str] = []
    in_section = listing = False

    def flush() -> None:
        written.extend(escaped("\n".join(prose)).split("\n") if prose else [])
        prose.clear()

    for line in docstring:
        indented = line.startswith((" ", "\t"))
        if line.strip() and not indented:
            in_section = bool(SECTION.match(line))
            if listing:
                listing = False
                written.append("")
            if line.rstrip() == "Returns:":  # prose to us; napoleon takes "``name``:" for a type
                line = ":returns:"
        if listing or not line.strip():
            flush()
            written.append(line)
        elif indented and not in_section and not _in_list(written, prose):
            flush()
            listing = True
            written += ["", "::", "", line]
        else:
            if LIST_ITEM.match(line) and prose and not _in_list([], prose):
                prose.append("")
            prose.append(line)
    flush()
    return written


def _in_list(written: list[str], prose: list[str]) -> bool:
    """Whether an indented line that comes now goes on with an item of a list."""
    for line in reversed(written + prose):
        if LIST_ITEM.match(line):
            return True
        if line and not line.startswith(" "):
            return False
    return False


def escaped(prose: str) -> str:
    """Prose in which only code, emphasis and links are markup."""
    parts = CODE.split(prose)
    for place, part in enumerate(parts):
        if place % 2:
            parts[place] = OUR_NAME.sub(r":py:obj:`\1`", part)
        else:
            kept = [*EMPHASIS.finditer(part), None]
            start, pieces = 0, []
            for emphasis in kept:
                end = emphasis.start() if emphasis else len(part)
                pieces.append(_escape(part[start:end]))
                if emphasis:
                    pieces.append(emphasis[0])
                    start = emphasis.end()
            parts[place] = "".join(pieces)
    return "".join(parts)


def _escape(text: str) -> str:
    text = re.sub(r"^(\s*)\*(?=\s)", "\\1\0", text, flags=re.M)  # a list's own star
    text = re.sub(r"([\\*|])", r"\\\1", text).replace("\0", "*")
    text = re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)
    return ARXIV.sub(r"`arXiv \1 <https://arxiv.org/abs/\1>`__", text)


def rewrite(app: Sphinx, kind: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """autodoc's event, before napoleon's turn.

    Napoleon takes what stands before a property's first colon for its type; not after a comment.
    """
    lines[:] = to_rst(lines)
    if kind in ("property", "attribute"):
        lines[:0] = ["..", ""]


def skip(app: Sphinx, kind: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out what others wrote into our classes: collections, and matplotlib's ``set``."""
    is_theirs = inspect.isfunction(obj) and obj.__module__.split(".")[0] not in OURS
    is_field = (getattr(obj, "__doc__", "") or "").startswith("Alias for field")
    return True if is_theirs or is_field else None


def shorten(
    app: Sphinx,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str, str | None] | None:
    """Sphinx's autodoc-process-signature event: a class of a hundred options says ``(...)``.

    A default without a spelling, as ``<factory>``, is no Python, which Sphinx would leave unset.
    """
    if signature is None:  # of a module, say
        return None
    if len(signature) > LONGEST_SIGNATURE:
        signature = "(...)"
    signature = NO_PYTHON.sub(lambda found: found[1] or "...", signature)
    signature = PATH.sub(r"Path('\1')", signature)  # of the repository, wherever it lies
    return _with_numpy_names(signature), returns and _with_numpy_names(returns)


def _with_numpy_names(annotated: str) -> str:
    annotated = annotated.replace(ARRAY_LIKE, "~numpy.typing.ArrayLike")
    return NDARRAY.sub(r"~numpy.typing.NDArray[\1]", annotated)


def setup(app: Sphinx) -> dict:
    app.connect("autodoc-process-docstring", rewrite, priority=400)
    app.connect("autodoc-process-signature", shorten)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
