"""README and the pages that say in full what it says in short; what their numbers come from."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = "findings", "running", "own_data", "fused_loss", "other_projects", "installing"
PAGES = [ROOT / "README.md", *(ROOT / "site" / f"{name}.md" for name in NAMES)]
TEXT = re.sub(r"\s+", " ", " ".join(page.read_text(encoding="utf-8") for page in PAGES))
RESULTS = ROOT / "assets" / "results"


def load(name: str) -> dict:
    """A result that a command wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text())
