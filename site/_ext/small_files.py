"""The site without bytes that no reader needs.

They are source maps of the theme, spaces in JSON, and two marks of HTML that no style uses: those
of blanks in code, and those of each word in a signature. The marks were a tenth of all HTML.
"""

import json
import re
from pathlib import Path

from sphinx.application import Sphinx

BLANK = re.compile(r'<span class="w">(\s*)</span>')
WORD = re.compile(r'<span class="pre">([^<]*)</span>')
SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)


def shrink(app: Sphinx, error: Exception | None) -> None:
    """Sphinx's build-finished event."""
    if error is not None:
        return
    for path in Path(app.outdir, "_static").rglob("*.map"):
        path.unlink()
    for path in Path(app.outdir, "_downloads").rglob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        compact = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
        path.write_text(compact, encoding="utf-8")
    if app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            path.write_text(without_marks(path.read_text(encoding="utf-8")), encoding="utf-8")


def without_marks(page: str) -> str:
    """A page as it looks, without the marks that no style uses."""
    page = BLANK.sub(r"\1", page)
    return SIGNATURE.sub(lambda found: WORD.sub(r"\1", found[0]), page)


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", shrink)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
