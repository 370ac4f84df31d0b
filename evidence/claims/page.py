"""CLAIMS.md, from text/*.md: one file for each part, what matters most to a reader first.

A part is a heading and its claims. A claim is a heading, a few fields, and the evidence:

    ## KL divergence, forward and reverse

    ### Reverse KL stays at the peak that it finds
    Says: “it will stay at that Local optimum” (Figure 1)
    Verdict: holds under conditions
    Number: <<one_gaussian.json: portraits/.../basin_share | .1%>> of the starts end on no peak
    Figure: assets/rev_kl.gif | what is to be seen in it, for who cannot see it
    Repeat: `make audit`

    What was found. Numbers stand as placeholders (results.py) and are never typed.

A field may go on in indented lines; Figure may be left out. Digits without a placeholder must stand
in a quotation, code or a link, or be one of ``NAMES``. ``untraced_numbers`` finds all others.
"""

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from evidence.claims.results import Results

TEXT = Path(__file__).parent / "text"
INTRODUCTION = "introduction.md"
POST = "https://iclr-blogposts.github.io/2025/blog/llm-knowledge-distil/"
# Each with its plural.
VERDICTS = {
    "holds": "hold",
    "holds under conditions": "hold under conditions",
    "does not hold": "do not hold",
    "not tested here": "were not tested here",
}
FIELDS = ("Says", "Verdict", "Number", "Figure", "Repeat")
LINE = 100

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?%?")
# Digits that name a thing rather than measure it.
NAMES = re.compile(
    r"(?:Figures?|Tables?|Equations?|arXiv|notebook|rank|Blogposts) [\d.]+(?: and [\d.]+)?"
    r"|ROUGE-\d|ZeRO-\d|L2|A100|Qwen2(?:\.5)?(?:-[\d.]+B)?|SmolLM2(?:-135M)?|UltraChat-200k|[\d.]+B\b"
    r"|[A-Z]\w+ et al\. \d{4}|95%",
    re.I,
)
NOT_PROSE = re.compile(r"`[^`]*`|“[^”]*”|\[[^]]*\]\(#[^)]*\)|\]\([^)]*\)")


class Claim(NamedTuple):
    """One claim of the post and its verdict."""

    title: str
    fields: Mapping[str, str]
    evidence: str

    @property
    def verdict(self) -> str:
        return self.fields["Verdict"]

    @property
    def anchor(self) -> str:
        """The name of its heading in links, on GitHub and by MyST."""
        return re.sub(r"[^\w\- ]", "", self.title.lower()).replace(" ", "-")

    @property
    def address(self) -> str:
        """Of the post; a browser scrolls to the quoted words, where they are plain text."""
        quoted = re.search(r"“([^”`\[]+)", self.fields["Says"])
        return POST + (f"#:~:text={quote(quoted[1].strip(), safe='')}" if quoted else "")

    def filled(self, results: Results, spoken: list[str]) -> "Claim":
        """The claim with numbers for placeholders; the numbers are added to ``spoken``."""
        fields = {name: results.fill(text, spoken) for name, text in self.fields.items()}
        return Claim(self.title, fields, results.fill(self.evidence, spoken))

    def __str__(self) -> str:
        verdict = self.verdict[0].upper() + self.verdict[1:]
        parts = [
            f"### {self.title}",
            f"> The [post]({self.address}): {self.fields['Says']}",
            f"**{verdict}.** {self.evidence}",
        ]
        if figure := self.fields.get("Figure"):
            path, _, alt = figure.partition(" | ")
            parts.append(f"![{alt}]({path})")
        parts.append(f"Repeat: {self.fields['Repeat']}")
        return "\n\n".join(map(_wrapped, parts))


class Page(NamedTuple):
    """The page, and its placeholders' numbers: heading ("": the top) -> numbers."""

    text: str
    spoken: Mapping[str, set[str]]


def write_page(results: Results, folder: Path = TEXT) -> Page:
    """The page from the texts of a folder.

    Raises:
        ValueError: a placeholder has no result, a number was typed, or a claim is malformed. The
            message says where.
    """
    parts: dict[str, list[Claim]] = {}
    spoken: dict[str, list[str]] = {"": []}
    for path in sorted(folder.glob("*.md")):
        if path.name != INTRODUCTION:
            heading, *texts = re.split(r"^### ", path.read_text(encoding="utf-8"), flags=re.M)
            found = [_claim(text, path.name) for text in texts]
            found = [one.filled(results, spoken.setdefault(one.title, [])) for one in found]
            parts[heading.strip()] = found
    claims = [claim for part in parts.values() for claim in part]
    if len({claim.anchor for claim in claims}) < len(claims):
        raise ValueError(f"two claims in {folder} have the same heading")

    counts = Counter(claim.verdict for claim in claims)
    count = ", ".join(f"{counts[one]} {plural}" for one, plural in VERDICTS.items() if counts[one])
    spoken[""] += [count, *(claim.fields["Number"] for claim in claims)]
    introduction = results.fill((folder / INTRODUCTION).read_text(encoding="utf-8"), spoken[""])
    top = [_wrapped(part) for part in introduction.replace("COUNT", count).strip().split("\n\n")]

    tables = [
        text
        for heading, part in parts.items()
        for text in (f"**{heading.removeprefix('## ')}**", _table(part))
    ]
    body = [text for heading, part in parts.items() for text in (heading, *map(str, part))]
    text = "\n\n".join([*top, *tables, *body]) + "\n"
    page = Page(text, {title: set(_numbers(" ".join(of))) for title, of in spoken.items()})
    if typed := untraced_numbers(text, page.spoken):
        raise ValueError(f"numbers that no result stands behind: {', '.join(typed)}")
    return page


def untraced_numbers(page: str, spoken: Mapping[str, set[str]]) -> list[str]:
    """The numbers of a page that no placeholder under the same heading gave, with their headings.

    Numbers in quotations, code, links and ``NAMES`` do not count.
    """
    found = []
    for section in re.split(r"^### ", f"\n{page}", flags=re.M):
        title = section.partition("\n")[0]
        given = spoken.get(title, set())
        body = section.removeprefix(title)
        found += [
            f"{number} ({title or 'top'})" for number in _numbers(body) if number not in given
        ]
    return found


def _numbers(text: str) -> list[str]:
    prose = NAMES.sub(" ", NOT_PROSE.sub(" ", re.sub(r"\n>? *", " ", text)))
    return [number.rstrip(",") for number in NUMBER.findall(prose)]


def _claim(text: str, file: str) -> Claim:
    head, _, evidence = text.strip().partition("\n\n")
    title, *lines = re.sub(r"\n +", " ", head).splitlines()
    fields = {name: value for name, _, value in (line.partition(": ") for line in lines)}
    if {*FIELDS} - {*fields, "Figure"} or {*fields} - {*FIELDS} or not evidence:
        raise ValueError(
            f"{file}, {title!r}: a claim has {', '.join(FIELDS)} and evidence, this one "
            f"{', '.join(fields)}"
        )
    if (verdict := fields["Verdict"]) not in VERDICTS:
        raise ValueError(
            f"{file}, {title!r}: a verdict is one of {', '.join(VERDICTS)}, not {verdict!r}"
        )
    return Claim(title, fields, evidence)


def _table(claims: Sequence[Claim]) -> str:
    rows = ["| the post's claim | verdict | in one number |", "| --- | --- | --- |"]
    rows += [
        f"| [{claim.title}](#{claim.anchor}) | {claim.verdict} | {claim.fields['Number']} |"
        for claim in claims
    ]
    return "\n".join(rows)


def _wrapped(part: str) -> str:
    """The text with its paragraphs, list items and quotations refilled to the line's width."""
    if part.startswith(("#", "![")):
        return part
    return "\n\n".join(
        "\n".join(_wrapped_block(block) for block in re.split(r"\n(?=- )", paragraph))
        for paragraph in part.split("\n\n")
    )


def _wrapped_block(block: str) -> str:
    indents = {"- ": "  ", "> ": "> "}
    if block.startswith("!["):
        return block
    return textwrap.fill(
        " ".join(block.split()),
        LINE,
        subsequent_indent=indents.get(block[:2], ""),
        break_long_words=False,
        break_on_hyphens=False,
    )
