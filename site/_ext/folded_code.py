"""Code of a notebook that only imports, draws, prints or asserts is folded under a line to open.

Lines that teach stay open. Each cell is cut at its statements, and a run of statements that show or
check what was computed goes into one fold where it is three lines or longer.
"""

import ast
import re
from collections.abc import Iterator
from itertools import groupby

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

SUMMARY = "Show the code and checks"
SHORTEST = 3  # lines of a fold
DRAWS = re.compile(
    r"\b(?:plt|ax|axes|axis|figure|panels?|Image|display|Markdown|legend|house_style)\b"
)
CHECKS = re.compile(r"(?:torch\.testing\.|np\.testing\.|math\.)?assert_?\w*\b")


class FoldedCode(SphinxTransform):
    default_priority = 610

    def apply(self) -> None:
        if not self.env.docname.startswith("notebooks/"):
            return
        for cell in list(self.document.findall(nodes.container)):
            if "cell_input" in cell["classes"]:
                for block in list(cell.findall(nodes.literal_block)):
                    block.parent.replace(block, list(_folded(block)))


def _folded(block: nodes.literal_block) -> Iterator[nodes.Node]:
    for folds, text in parts(block.astext()):
        shown = nodes.literal_block(text, text, **block.attributes)
        if folds:
            opening = f'<details class="folded"><summary>{SUMMARY}</summary>'
            yield from (nodes.raw("", opening, format="html"), shown)
            yield nodes.raw("", "</details>", format="html")
        else:
            yield shown


def parts(source: str) -> list[tuple[bool, str]]:
    """A cell's source in parts: whether each is folded, and its lines.

    A cell that is no Python (a magic, a shell command) is one open part.
    """
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return [(False, source)]
    lines = source.split("\n")
    starts = [_first_line(statement, lines) for statement in statements]
    ends = [*starts[1:], len(lines)]
    pieces = [
        (_shows_or_checks(statement, source), lines[start:end])
        for statement, start, end in zip(statements, starts, ends, strict=True)
    ]
    if pieces:
        pieces[0] = (pieces[0][0], lines[: ends[0]])
    runs = [
        (folds, [line for _, piece in run for line in piece])
        for folds, run in groupby(pieces, key=lambda piece: piece[0])
    ]
    # A fold of a line or two hides less than its own summary takes.
    runs = [
        (folds and len("\n".join(text).strip().split("\n")) >= SHORTEST, text)
        for folds, text in runs
    ]
    return [
        (folds, "\n".join(line for _, text in run for line in text).strip("\n"))
        for folds, run in groupby(runs, key=lambda run: run[0])
    ] or [(False, source)]


def _first_line(statement: ast.stmt, lines: list[str]) -> int:
    """Where a statement begins, with the comments above it; counted from 0."""
    start = statement.lineno - 1
    while start > 0 and lines[start - 1].startswith("#"):
        start -= 1
    return start


def _shows_or_checks(statement: ast.stmt, source: str) -> bool:
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.Assert):
        return True
    if isinstance(statement, ast.For | ast.With | ast.If):
        text = source.split("\n")[statement.lineno - 1]
        whole = all(_shows_or_checks(inner, source) for inner in statement.body)
        return whole or (isinstance(statement, ast.With) and "house_style" in text)
    text = ast.get_source_segment(source, statement) or ""
    if isinstance(statement, ast.Expr) and (text.startswith("print(") or CHECKS.match(text)):
        return True
    return bool(DRAWS.search(text))


def setup(app: Sphinx) -> dict:
    app.add_transform(FoldedCode)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
