"""The audit at a glance, for the front page: a mark for each claim of CLAIMS.md, in its order.

``{verdicts}`` reads the page's own table, so that the marks cannot say anything else.
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
            f"<span>{_mark(verdict)} {counts[verdict]} {verdict}</span>" for verdict in VERDICTS
        )
        html = f'<ul class="verdicts">{marks}</ul><p class="verdict-key">{key}</p>'
        return [nodes.raw("", html, format="html")]


def _claim(claim: str, anchor: str, verdict: str) -> str:
    words = f"{escape(claim)}: {verdict}"
    return (
        f'<li><a href="CLAIMS.html#{anchor}" title="{words}">{_mark(verdict)}'
        f'<span class="only-heard">{words}</span></a></li>'
    )


def _mark(verdict: str) -> str:
    name = verdict.replace(" ", "-")
    return f'<span class="mark {name}" aria-hidden="true">{VERDICTS[verdict]}</span>'


def setup(app: Sphinx) -> dict:
    app.add_directive("verdicts", Verdicts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
