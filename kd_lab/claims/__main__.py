"""``python -m kd_lab.claims``: write CLAIMS.md from assets/results/ and the texts beside this file.

Run it in the project's own folder, after whatever has written new results there.
"""

import sys
from pathlib import Path

from kd_lab.claims.page import write_page
from kd_lab.claims.results import Results

PAGE, RESULTS = Path("CLAIMS.md"), Path("assets/results")


def main() -> None:
    """Write the page.

    Raises:
        ValueError: there are no results here, or the texts ask for one that is not there.
    """
    if not RESULTS.is_dir():
        raise ValueError(f"there is no {RESULTS} here: run this in the project's own folder")
    PAGE.write_text(write_page(Results(RESULTS)).text, encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as refusal:
        print(f"claims: error: {refusal}", file=sys.stderr)
        sys.exit(2)
