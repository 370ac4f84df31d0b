"""Sentences are short enough to be read once: at most 25 words, on every page that people read."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 25  # words
PAGES = [
    *(ROOT / name for name in ("README.md", "CLAIMS.md", "CONTRIBUTING.md", "FIELD.md", "GPU.md")),
    *sorted((ROOT / "site").rglob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
    ROOT / "teach" / "slides.md",
]
# Pages that still have longer sentences, and how many: a number here goes down only.
LEFT: dict[str, int] = {}

NOT_PROSE = (
    (re.compile(r"^(```|~~~|:::).*?^\1.*?$", re.M | re.S), ""),
    (re.compile(r"\A---\n.*?\n---\n", re.S), ""),
    (re.compile(r"\$\$.*?\$\$", re.S), " FORMULA. "),
    (re.compile(r"^\s*\|.*\|\s*$", re.M), ""),  # tables
    (re.compile(r"^#.*$|^!\[.*\)\s*$|^\{.*\}.*$|^\(.*\)=$", re.M), ""),
    (re.compile(r"!\[[^]]*\]\([^)]*\)"), ""),
    (re.compile(r"<[^>]+>"), " "),
    (re.compile(r"\[([^]]*)\]\([^)]*\)"), r"\1"),  # a link's words
    (re.compile(r"`[^`]*`|\$[^$]*\$"), "CODE"),
    (re.compile(r"“[^”]*”"), "QUOTATION"),  # another author's words
    (re.compile(r"\[[-+.\d%,\s]+\]"), ""),  # an interval
)
END = re.compile(r"(?<=[.!?:;])[)*_”]*\s+(?=[\"“(*_\[]*[A-ZΑ-Ω0-9])|\n\s*\n|\n\s*(?:[-*]|\d+\.) ")
WORD = re.compile(r"[^\W_][\w'’.,/‖()-]*")


def text_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return prose(text)


def prose(text: str) -> str:
    for pattern, instead in NOT_PROSE:
        text = pattern.sub(instead, text)
    return text


def long_sentences(text: str) -> list[str]:
    sentences = (" ".join(one.split()) for one in END.split(text))
    return [one for one in sentences if len(WORD.findall(one)) > LONGEST]


def test_the_counter_finds_a_long_sentence_and_leaves_out_what_is_no_prose():
    words = "Word" + " word" * 25
    assert long_sentences(f"Short. {words}. Short again.") == [f"{words}."]
    no_prose = f"| {words} |\n\n```\n{words}\n```\n\n“{words}” is said. `x {words}`"
    assert not long_sentences(prose(no_prose))
    assert not long_sentences("\n".join(f"- item {n} of a list" for n in range(30)))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_sentence_must_be_read_twice(path):
    found = long_sentences(text_of(path))
    allowed = LEFT.get(path.relative_to(ROOT).as_posix(), 0)
    assert len(found) <= allowed, "\n".join(found)
    assert allowed <= len(found), f"LEFT says {allowed}, and {len(found)} are left: lower it"
