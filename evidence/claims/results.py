"""Numbers by name, such as ``<<two_gaussians.json: races/forward_kl/never | .1%>>``.

    <<FILE: PATH | FORMAT>>

FILE lies under assets/results/. PATH is keys and indices with a slash between them. It knows two
more steps:

    name=SFT       picks the one row of a list of rows with that value. In nested lists whose file
                   has ``axes`` it picks that place on that axis: one step an axis, in their order.
    *              follows the rest of the path in each value of a mapping of mappings

FORMAT is a format spec such as ``.3f``. An estimate with its interval (``mean``, ``low`` and
``high``, or ``share`` and ``interval``, ...) gives both: 0.964 [0.962, 0.966]. A format in braces
names its parts: ``{low:.1f} to {high:.1f}`` of a mapping, ``{0[2]}`` of a list.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

PLACEHOLDER = re.compile(r"<<([^:<>]+):([^<>]*?)(?:\|([^<>]*))?>>", re.S)
ESTIMATES = ("mean", "share", "steps", "mean_difference")


class Results:
    """A folder of results; a file is read when a placeholder needs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = cache(self._read)

    def fill(self, text: str, spoken: list[str] | None = None) -> str:
        """The text with its placeholders filled in; the numbers are added to ``spoken``.

        Raises:
            ValueError: the file, path or format of a placeholder does not fit; names it.
        """

        def replace(match: re.Match[str]) -> str:
            file, path, spec = (" ".join((part or "").split()) for part in match.groups())
            try:
                told = _format(self.value(file, path), spec)
            except (ValueError, LookupError, TypeError, OSError) as error:
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(
                    f"<<{file}: {path} | {spec}>> in {text[:60]!r}: {reason}"
                ) from error
            if spoken is not None:
                spoken.append(told)
            return told

        return PLACEHOLDER.sub(replace, text)

    def value(self, file: str, path: str) -> Any:
        """The value at a path of a file.

        Raises:
            LookupError: the path leads nowhere, or names several rows.
        """
        found = self._file(file)
        axes = found.get("axes", {}) if isinstance(found, Mapping) else {}
        return _walk(found, [step for step in path.split("/") if step], axes)

    def _read(self, file: str) -> Any:
        path = self.folder / file
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as rows:
                return [_row(row) for row in csv.DictReader(rows)]
        return json.loads(path.read_text(encoding="utf-8"))


def _walk(found: Any, steps: Sequence[str], axes: Mapping[str, list[Any]]) -> Any:
    if not steps:
        return found
    step, rest = steps[0], steps[1:]
    if step == "*":
        return {key: _walk(value, rest, axes) for key, value in found.items()}
    if isinstance(found, Mapping):
        return _walk(found[step], rest, axes)
    key, equals, label = step.partition("=")
    if not equals:
        return _walk(found[int(step)], rest, axes)
    if key in axes:
        return _walk(found[[str(one) for one in axes[key]].index(label)], rest, axes)
    rows = [row for row in found if str(row[key]) == label]
    if len(rows) != 1:
        raise LookupError(f"{len(rows)} rows with {step}")
    return _walk(rows[0], rest, axes)


def _row(cells: Mapping[str, str]) -> dict[str, Any]:
    """A row of a table; a column, its _low and its _high make one estimate."""
    row: dict[str, Any] = {name: _number(cell) for name, cell in cells.items()}
    return row | {
        name: {"mean": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}
        for name in cells
        if f"{name}_low" in cells
    }


def _number(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell


def _format(value: Any, spec: str) -> str:
    if "{" in spec:
        return spec.format(value, **(value if isinstance(value, Mapping) else {}))
    if isinstance(value, Mapping):
        estimate = next((value[name] for name in ESTIMATES if name in value), None)
        if estimate is None:
            raise ValueError(f"no estimate among {', '.join(value)}")
        low, high = value.get("interval") or (value["low"], value["high"])
        return f"{estimate:{spec}} [{low:{spec}}, {high:{spec}}]"
    return f"{value:{spec}}"
