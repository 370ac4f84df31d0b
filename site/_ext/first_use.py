"""The first use of a term on a page leads to its definition in the glossary, site/words.md.

Pages stay as their authors wrote them. Links are set when a page is written: once for each
definition, in running text only, and never inside a heading, a link, code or a formula.
"""

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx

GLOSSARY = "site/words"
# The API defines its own names; these pages are looked up and not read.
NOT_TEXTS = (
    "site/api/",
    "site/words",
    "site/cheat_sheet",
    "site/results",
    "assets/",
    "teach/",
)
NO_TEXT = (
    nodes.reference,
    nodes.title,
    nodes.literal,
    nodes.literal_block,
    nodes.math,
    nodes.math_block,
    nodes.raw,
    nodes.caption,
    nodes.thead,
)


def link_first_uses(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Sphinx's doctree-resolved event."""
    if docname.startswith(NOT_TEXTS):
        return
    objects = app.env.get_domain("std").get_objects()
    # From the longest: "reverse KL" is looked for before a term that is a part of it would be.
    anchors = {term: label for term, _, kind, page, label, _ in objects if kind == "term"}
    address = app.builder.get_relative_uri(docname, GLOSSARY)
    words = {
        term: f"{address}#{anchor}"
        for term, anchor in sorted(anchors.items(), key=lambda item: -len(item[0]))
    }
    for text in list(doctree.findall(nodes.Text)):
        if not any(_is_inside(text, kind) for kind in NO_TEXT):
            linked = list(_linked(str(text), words))
            if len(linked) > 1:
                text.parent.replace(text, linked)


def _is_inside(node: nodes.Node, kind: type) -> bool:
    parent = node.parent
    while parent is not None and not isinstance(parent, kind):
        parent = parent.parent
    return parent is not None


def _linked(text: str, words: dict[str, str]) -> Iterator[nodes.Node]:
    """A text's parts, the first uses as links; what was used leaves ``words``."""
    while words:
        found = re.search(rf"(?<![\w-])(?:{'|'.join(map(_spellings, words))})(?![\w-])", text)
        if found is None:
            break
        term = next(t for t in words if re.fullmatch(_spellings(t), found[0]))
        address = words[term]
        for other in [t for t, target in words.items() if target == address]:
            del words[other]
        yield nodes.Text(text[: found.start()])
        yield nodes.reference("", found[0], refuri=address, internal=True, classes=["term"])
        text = text[found.end() :]
    yield nodes.Text(text)


def _spellings(term: str) -> str:
    """A term as it stands in a text: at the beginning of a sentence too, and in the plural."""
    first, rest = term[0], re.escape(term[1:])
    start = f"[{first.upper()}{first}]" if first.islower() else re.escape(first)
    plural = "" if term.endswith("s") else "s?"
    return start + rest + plural


def setup(app: Sphinx) -> dict:
    app.connect("doctree-resolved", link_first_uses)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
