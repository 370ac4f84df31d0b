"""The slides of two lectures: teach/slides.md, with its numbers filled in; and their PDF.

    python -m book.slides build/site/teach/slides.html build/slides.pdf

A line ``---`` stands between two slides. A slide is a heading, a body, and speaker notes, which are
a quotation at its end. Numbers of results stand as placeholders (``evidence.claims.results``). A
number that is typed is an error, unless it is part of a formula, code or a link, or names a thing.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from evidence.claims.page import NAMES, NOT_PROSE, NUMBER
from evidence.claims.results import PLACEHOLDER, Results

SOURCE = Path(__file__).parents[1] / "teach" / "slides.md"
BETWEEN = re.compile(r"^---\n", re.M)
FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$\n]*\$|```.*?```", re.S)
# What is numbered in this project's teaching.
NUMBERED = re.compile(
    r"\b(?:lesson|problem|notebook|equation)s? \d+(?: to \d+)?|\bk[123]\b|Apache-2.0", re.I
)
# The first is Chromium without windows: it opens a page at a third of the others' cost.
BROWSERS = (
    *("chromium-headless-shell", "chromium", "chromium-browser"),
    *("google-chrome", "google-chrome-stable"),
)


class Slide(NamedTuple):
    """One slide in Markdown, with its placeholders."""

    title: str
    body: str
    notes: str


def read_slides(source: Path = SOURCE) -> list[Slide]:
    """The slides of a file, in order.

    Raises:
        ValueError: a slide has no heading or no notes; names the file and the slide.
    """
    slides = []
    for number, text in enumerate(BETWEEN.split(source.read_text(encoding="utf-8")), 1):
        heading, _, rest = text.strip().partition("\n\n")
        body, quoted, notes = rest.partition("\n> ")
        if not re.fullmatch(r"# .+" if number == 1 else r"## .+", heading):
            due = "# " if number == 1 else "## "
            raise ValueError(f"{source.name}, slide {number} begins with no heading {due!r}")
        if not quoted:
            raise ValueError(f"{source.name}, slide {number} ({heading}) has no notes")
        slides.append(Slide(heading.lstrip("# "), body.strip(), notes.replace("\n> ", "\n")))
    return slides


def typed_numbers(slide: Slide) -> list[str]:
    """The numbers of a slide that no placeholder gives, and that name nothing."""
    text = " ".join(slide)
    for no_number in (PLACEHOLDER, FORMULA, NOT_PROSE, NAMES, NUMBERED):
        text = no_number.sub(" ", text)
    return NUMBER.findall(text)


def page(results: Results, source: Path = SOURCE) -> str:
    """All slides as one page of Markdown, with their numbers.

    Raises:
        ValueError: as in ``read_slides``; also if a number was typed, or a placeholder has no
            result. The message names the slide.
    """
    for number, slide in enumerate(read_slides(source), 1):
        if typed := typed_numbers(slide):
            raise ValueError(
                f"{source.name}, slide {number} ({slide.title}): numbers that no result stands "
                f"behind: {', '.join(typed)}"
            )
    return results.fill(BETWEEN.sub("", source.read_text(encoding="utf-8")))


def print_pdf(slides: Path, pdf: Path) -> None:
    """The built page as a PDF, a slide a page, by the Chromium or Chrome that is installed.

    Raises:
        FileNotFoundError: no page, or no browser; says which command makes it.
        subprocess.CalledProcessError: the browser failed.
    """
    if not slides.is_file():
        raise FileNotFoundError(f"there is no {slides}: `make site` builds it")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise FileNotFoundError(
            f"none of {', '.join(BROWSERS)} is installed: `make browser` installs one, or print "
            f"{slides} from any browser"
        )
    pdf.parent.mkdir(parents=True, exist_ok=True)
    as_root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    subprocess.run(
        [
            *(browser, "--headless", "--disable-gpu", "--no-pdf-header-footer", *as_root),
            *(f"--print-to-pdf={pdf.resolve()}", slides.resolve().as_uri()),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the built slides, a slide a page.")
    parser.add_argument("slides", type=Path, help="the built page")
    parser.add_argument("pdf", type=Path, help="where the PDF goes")
    options = parser.parse_args()
    try:
        print_pdf(options.slides, options.pdf)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))
    print(f"wrote {options.pdf}")


if __name__ == "__main__":
    main()
