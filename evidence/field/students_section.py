"""What a student of the toy language becomes under each loss: two tables, and what they show."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEXT = (Path(__file__).parent / "students.md").read_text(encoding="utf-8")
COLUMNS = {
    "precision": "precision", "coverage": "coverage",
    "forward_kl": "D(p‖q)", "reverse_kl": "D(q‖p)",
}  # fmt: skip
DIGITS = {"precision": 2, "coverage": 2, "forward_kl": 3, "reverse_kl": 3}
PREFIXES = {"student": "On the student's own answers", "dataset": "On the dataset's answers"}


def students_section(found: Mapping[str, Any]) -> str:
    """Of what ``evidence.field.students.results.measure`` found."""
    values = {
        f"{loss['key']}_{name}": f"{loss['measures'][name]['mean']:.{DIGITS[name]}f}"
        for loss in found["losses"]
        for name in COLUMNS
    }
    for name in COLUMNS:
        values[f"start_{name}"] = f"{found['start'][name]['mean']:.{DIGITS[name]}f}"
        values[f"teacher_{name}"] = f"{found['teacher'][name]:.{DIGITS[name]}f}"
    text = TEXT.format(
        tail=f"{100 * found['teacher']['tail']:.1f}%",
        minutes=f"{found['seconds'] / 60:.0f}",
        **found["settings"],
        **values,
    ).strip()
    parts = [text]
    for prefixes, title in PREFIXES.items():
        parts.append(f"### {title}")
        parts.append(_table(found, prefixes))
    return "\n\n".join(parts)


def _table(found: Mapping[str, Any], prefixes: str) -> str:
    lines = [
        f"| loss | found in | {' | '.join(COLUMNS.values())} |",
        f"|---|---|{'---|' * len(COLUMNS)}",
        _row("*the start*", "", found["start"], None),
    ]
    for loss in found["losses"]:
        if loss["prefixes"] == prefixes:
            is_control = not loss["who"] and loss["control"] == loss["key"]
            against = None if is_control else loss["against_control"]
            what = f"*{loss['what']}*" if is_control else loss["what"]
            lines.append(_row(what, loss["who"], loss["measures"], against))
    return "\n".join(lines)


def _row(
    what: str, who: str, measures: Mapping[str, Any], against: Mapping[str, Any] | None
) -> str:
    """Bold where the interval of the paired difference from the control leaves out 0."""
    cells = []
    for name in COLUMNS:
        of, digits = measures[name], DIGITS[name]
        text = f"{of['mean']:.{digits}f} ± {of['high'] - of['mean']:.{digits}f}"
        differs = against is not None and not against[name]["low"] <= 0 <= against[name]["high"]
        cells.append(f"**{text}**" if differs else text)
    return f"| {what.replace('|', chr(92) + '|')} | {who} | {' | '.join(cells)} |"
