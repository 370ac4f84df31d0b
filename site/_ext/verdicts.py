"""The audit at a glance: a mark for each verdict of CLAIMS.md.

``{verdicts}`` on the front page reads that page's own table, in its order, so that the marks cannot
say anything else. A mark shows its claim to a pointer and to the keyboard. For a finger the key
below unfolds to the claims by name. On the page itself marks stand before the verdicts' words.
"""

import re
from collections import Counter
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROW = re.compile(r"^\| \[([^\]]+)\]\(#([^)]+)\) \| ([a-z ]+) \|", re.M)
VERDICTS = {
    "holds": "●",
    "holds under conditions": "◐",
    "does not hold": "✕",
    "not tested here": "?",
}


class Verdicts(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        claims = Path(self.env.srcdir, "CLAIMS.md")
        self.env.note_dependency(str(claims))
        rows = ROW.findall(claims.read_text(encoding="utf-8"))
        if not rows or {verdict for _, _, verdict in rows} - set(VERDICTS):
            raise self.error(
                "CLAIMS.md has no table of claims with the verdicts that are known here"
            )
        counts = Counter(verdict for _, _, verdict in rows)
        marks = "".join(_claim(*row) for row in rows)
        key = "".join(
            f"<details><summary>{_mark(verdict)} {counts[verdict]} {verdict}</summary>"
            f"<ul>{''.join(_named(*row) for row in rows if row[2] == verdict)}</ul></details>"
            for verdict in VERDICTS
        )
        html = f'<ul class="verdicts">{marks}</ul><div class="verdict-key">{key}</div>'
        return [nodes.raw("", html, format="html")]


def _claim(claim: str, anchor: str, verdict: str) -> str:
    words = f"{escape(claim)}: {verdict}"
    return (
        f'<li><a href="CLAIMS.html#{anchor}">{_mark(verdict)}'
        f'<span class="only-heard">{words}</span></a></li>'
    )


def _named(claim: str, anchor: str, verdict: str) -> str:
    return f'<li><a href="CLAIMS.html#{anchor}">{escape(claim)}</a></li>'


def _mark(verdict: str) -> str:
    name = verdict.replace(" ", "-")
    return f'<span class="mark {name}" aria-hidden="true">{VERDICTS[verdict]}</span>'


def mark_page(app: Sphinx, doctree: nodes.document) -> None:
    """Put the marks before the verdicts of CLAIMS.md: in the table, and where a section begins."""
    if app.env.docname != "CLAIMS":
        return
    words = [node for node in doctree.findall(nodes.strong) if node.astext().endswith(".")]
    words += [node for node in doctree.findall(nodes.entry) if len(node) == 1]
    for node in words:
        verdict = node.astext().rstrip(".").lower()
        if verdict in VERDICTS:
            place = node if isinstance(node, nodes.strong) else node[0]
            place.insert(0, nodes.raw("", f"{_mark(verdict)} ", format="html"))


def setup(app: Sphinx) -> dict:
    app.add_directive("verdicts", Verdicts)
    app.connect("doctree-read", mark_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
