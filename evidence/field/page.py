"""FIELD.md, written from assets/results/: no number of it is typed twice."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evidence.field.students_section import students_section
from evidence.field.trust_section import trust_section
from evidence.field.words import sum_in_words
from kd_lab.check.fixed_point import IS_TEACHER, TOP, WORDS
from kd_lab.files import read_mapping

INTRODUCTION = (Path(__file__).parent / "introduction.md").read_text(encoding="utf-8")
FAMILIES = {
    "logits": "Whole vocabularies",
    "topk": "The teacher's top k",
    "tokens": "The sampled token, as a loss",
    "advantage": "The sampled token, in the advantage",
}
COMMANDS = {
    "field": "field",
    "field_students": "field_students runs/field_students",
    "check_alarms": "check_alarms runs/check_alarms",
}
# What a finding is called beside a name that is right.
BESIDES = {"padded rows": "rows that the student's head lacks get a logit of 0 there"}


def write_page(results: Path) -> str:
    """The page, of the files that ``python -m evidence`` has written to a folder.

    Raises:
        ValueError: one is missing; with the command that writes it.
    """
    found, students, alarms = (_read(results, name) for name in COMMANDS)
    entries = found["implementations"]
    right = sum(map(_is_as_said, entries))
    zero = sum(not entry["parts"] for entry in entries)
    run = sum(entry["is_run"] for entry in entries)
    libraries = found["versions"]["libraries"]
    parts = [
        INTRODUCTION.format(
            count=len(entries), right=right, other=len(entries) - right - zero, zero=zero, run=run,
            anew=len(entries) - run, trl=libraries["trl"], torch=libraries["torch"],
            words=WORDS, top=TOP, nats=f"{IS_TEACHER:g}",
        ).strip()
    ]  # fmt: skip
    for form, title in FAMILIES.items():
        parts.append(f"### {title}")
        parts.append(_table([entry for entry in entries if entry["form"] == form]))
    parts += [students_section(students), trust_section(alarms)]
    return "\n\n".join(parts) + "\n"


def _read(results: Path, name: str) -> dict[str, Any]:
    path = results / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"there is no {path}: `python -m evidence {COMMANDS[name]}` writes it")
    return read_mapping(path, f"`python -m evidence {COMMANDS[name]}` writes it anew")


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
    """What the gradient is, in the field's words; bold where it is not what is said."""
    if not entry["parts"]:
        name = "nothing: it is zero on average"
    elif entry["is_explained"]:
        name = sum_in_words(entry["parts"])
    else:
        low, high = min(entry["lengths"]), max(entry["lengths"])
        name = (
            f"no known loss: the nearest leaves {100 * entry['unexplained']:.0f}% of it; "
            f"{low:.2g} to {high:.2g} times as long as reverse KL's"
        )
    besides = [
        BESIDES[finding["name"]]
        for finding in entry["findings"]
        if finding["is_fault"] and finding["name"] in BESIDES
    ]
    name = name if _is_as_said(entry) else f"**{name}**"
    return "; ".join([name, *dict.fromkeys(besides)])


def _is_as_said(entry: Mapping[str, Any]) -> bool:
    """Whether its gradient has the name that is said; it may have other faults."""
    faults = {finding["words"] for finding in entry["findings"] if finding["is_fault"]}
    return {*entry["objections"]} <= faults


def _ends(entry: Mapping[str, Any]) -> str:
    """Where the flow on one softmax ends, from a flat and from a collapsed student."""
    ends = entry["ends"]
    nats = max(max(end["forward_kl"], end["reverse_kl"]) for end in ends)
    if nats < IS_TEACHER:
        return "yes"
    if all(abs(end["tail"] / end["teacher_tail"] - 1) < 1e-2 for end in ends):
        return f"but for the tail's shape, up to {nats:.2g} nats off"
    words = [
        f"{end['forward_kl']:.2g} and {end['reverse_kl']:.2g} nats off, tail "
        f"{end['tail']:.2g} for {end['teacher_tail']:.2g}"
        for end in ends
    ]
    return " / ".join(dict.fromkeys(words))
