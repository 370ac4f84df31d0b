"""Committed results for the explorables: assets/results/NAME becomes _static/data/NAME, compact."""

import json
from pathlib import Path

from sphinx.application import Sphinx


def write(app: Sphinx, error: Exception | None) -> None:
    """Sphinx's build-finished event."""
    folder = Path(app.outdir, "_static", "data")
    for name in app.config.explorable_data if error is None else ():
        results = json.loads(Path(app.srcdir, "assets", "results", name).read_text())
        folder.mkdir(parents=True, exist_ok=True)
        compact = json.dumps(results, ensure_ascii=False, separators=(",", ":"))
        (folder / name).write_text(compact, encoding="utf-8")


def setup(app: Sphinx) -> dict:
    app.add_config_value("explorable_data", [], "html", list)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
