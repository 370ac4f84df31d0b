"""FIELD.md, written from assets/results/field.json: no word of it is typed twice."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

INTRODUCTION = (Path(__file__).parent / "introduction.md").read_text(encoding="utf-8")
FAMILIES = {
    "logits": "Whole vocabularies",
    "topk": "The teacher's top k",
    "tokens": "The sampled token, as a loss",
    "advantage": "The sampled token, in the advantage",
}


def write_page(found: Mapping[str, Any]) -> str:
    """The page, of what ``evidence.field.measure`` found."""
    entries = found["implementations"]
    right = sum(not entry["objections"] for entry in entries)
    zero = sum(not entry["parts"] for entry in entries)
    run = sum(entry["is_run"] for entry in entries)
    libraries = found["versions"]["libraries"]
    parts = [
        INTRODUCTION.format(
            count=len(entries), right=right, other=len(entries) - right - zero, zero=zero, run=run,
            anew=len(entries) - run, trl=libraries["trl"], torch=libraries["torch"],
        ).strip()
    ]  # fmt: skip
    for form, title in FAMILIES.items():
        parts.append(f"## {title}")
        parts.append(_table([entry for entry in entries if entry["form"] == form]))
    return "\n\n".join(parts) + "\n"


def _table(entries: list[Mapping[str, Any]]) -> str:
    lines = [
        "| project | loss | says | its gradient is that of | ends at the teacher | code |",
        "|---|---|---|---|---|---|",
    ]
    for entry in entries:
        state = f" ({entry['state']})" if entry["state"] else ""
        cells = (
            entry["project"], f"{entry['what']}{state}; `{entry['where']}`", entry["says"],
            _name(entry), _ends(entry), "run" if entry["is_run"] else "formula",
        )  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _name(entry: Mapping[str, Any]) -> str:
    """What the gradient is, in the page's words; bold where it is not what is said."""
    if not entry["parts"]:
        name = "nothing: it is zero on average"
    elif entry["is_explained"]:
        parts = []
        for part in entry["parts"]:
            settings = ", ".join(f"{key} {value:g}" for key, value in part["settings"].items())
            times = "" if abs(part["coefficient"] - 1) < 5e-3 else f"{part['coefficient']:.3g} × "
            parts.append(times + part["name"] + (f" ({settings})" if settings else ""))
        name = " + ".join(parts)
    else:
        low, high = min(entry["lengths"]), max(entry["lengths"])
        name = (
            f"no known loss: the nearest leaves {100 * entry['unexplained']:.0f}% of it; "
            f"{low:.2g} to {high:.2g} times as long as reverse KL's"
        )
    return f"**{name}**" if entry["objections"] else name


def _ends(entry: Mapping[str, Any]) -> str:
    """Where the flow on one softmax ends, from a flat and from a collapsed student."""
    words = []
    for end in entry["ends"]:
        nats = max(end["forward_kl"], end["reverse_kl"])
        if nats < 1e-2:
            words.append("yes")
        else:
            words.append(
                f"{end['forward_kl']:.2g} and {end['reverse_kl']:.2g} nats off, tail "
                f"{end['tail']:.2g} for {end['teacher_tail']:.2g}"
            )
    return " / ".join(dict.fromkeys(words))
