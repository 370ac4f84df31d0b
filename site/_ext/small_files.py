"""The site without bytes that no reader needs: source maps of the theme, and spaces in JSON."""

import json
from pathlib import Path

from sphinx.application import Sphinx


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


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", shrink)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
