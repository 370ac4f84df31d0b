"""``make hardening``: every kind of case, counted beside the first edition's.

    python -m tests.hardening                                # all: about an hour on two cores
    python -m tests.hardening --only damages --scale 0.1     # forty damages

It exits with 1 if a case did not hold, and names it. ``--json`` keeps what the file has of kinds
that were not tried now: each kind has its commit, seed and seconds.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kd_lab.files import write_text
from kd_lab.runs.versions import run_versions
from tests.hardening.cases import Case
from tests.hardening.first_edition import FIRST_EDITION

TELL_EVERY = 10  # cases


class Kind(NamedTuple):
    """Where a kind's cases come from, how many there are at scale 1, and what is passed on."""

    function: str  # MODULE:NAME of a function of a folder; imported only when it is called
    count: int = 0  # 0: the function knows its own
    takes_seed: bool = False


KINDS = {
    "damages": Kind("tests.hardening.damages:random_damages", 400, takes_seed=True),
    "two writers": Kind("tests.hardening.two_writers:two_in_one_folder", 26),
    "kills": Kind("tests.hardening.kills:killed_and_gone_on", 33, takes_seed=True),
    "Ctrl-C": Kind("tests.hardening.interrupts:stopped_and_gone_on", 42, takes_seed=True),
    "full disks": Kind("tests.hardening.full_disks:filled_and_gone_on", 33, takes_seed=True),
    "read-only folders": Kind("tests.hardening.read_only:refused_folders", 44),
    "splits": Kind("tests.hardening.splits:steps_of_splits"),
    "names": Kind("tests.hardening.names:names_as_text", 10),
    "command line": Kind(
        "tests.hardening.command_lines:bad_command_lines", 600, takes_seed=True
    ),
}  # fmt: skip


def cases_of(name: str, folder: Path, scale: float, seed: int) -> Iterator[Case]:
    """The cases of a kind, one after the other, as they are tried in a folder."""
    kind = KINDS[name]
    function: Callable[..., Iterator[Case]] = resolve_name(kind.function)
    arguments = [max(1, round(scale * kind.count))] if kind.count else []
    return function(folder, *arguments, *([seed] if kind.takes_seed else []))


def counted(
    cases: Sequence[Case], name: str, seconds: float, scale: float, seed: int
) -> dict[str, Any]:
    """A kind's counts as JSON values."""
    failed = [case for case in cases if not case.held]
    tried, held = FIRST_EDITION.get(name, (None, None))
    return {
        "tried": len(cases),
        "held": len(cases) - len(failed),
        "failures": dict(Counter(case.outcome for case in failed).most_common()),
        "first_edition": {"tried": tried, "held": held},
        "seconds": round(seconds),
        "scale": scale,
        "failed": [asdict(case) for case in failed],
        "versions": run_versions({"seed": seed}),
    }


def table_of(kinds: dict[str, dict[str, Any]]) -> Table:
    """The counts, a row a kind, beside those of the first edition."""
    table = Table("kind", "tried", "held", "failures", "first edition: tried", "held")
    for name, counts in kinds.items():
        failures = ", ".join(f"{count} {what}" for what, count in counts["failures"].items())
        first = (str(count or "") for count in counts["first_edition"].values())
        table.add_row(name, str(counts["tried"]), str(counts["held"]), failures, *first)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hardening", description=__doc__)
    there = [name for name, kind in KINDS.items() if _is_there(kind)]
    parser.add_argument("--only", choices=there, action="append", help="one kind; may be repeated")
    parser.add_argument("--scale", type=float, default=1.0, help="the share of the cases to try")
    parser.add_argument("--seed", type=int, default=0, help="of what is random")
    parser.add_argument("--json", type=Path, help="the file of the counts")
    args = parser.parse_args()
    console, kinds = Console(), {}
    for name in args.only or there:
        since, cases = time.perf_counter(), []
        with tempfile.TemporaryDirectory() as folder:
            for case in cases_of(name, Path(folder) / "work", args.scale, args.seed):
                cases.append(case)
                if len(cases) % TELL_EVERY == 0:
                    print(f"{name}: {len(cases)} tried", file=sys.stderr, flush=True)
                if not case.held:
                    console.print(escape(f"{case.kind}: {case.outcome}: {case.what}"))
                    console.print(escape(f"    {case.message}"))
        kinds[name] = counted(cases, name, time.perf_counter() - since, args.scale, args.seed)
        console.print(f"{name}: {kinds[name]['held']} of {kinds[name]['tried']} held")
        if args.json is not None:
            write_counts(args.json, name, kinds[name])
    console.print(table_of(kinds))
    if args.json is not None:
        console.print(f"wrote {args.json}")
    return 1 if any(counts["failures"] for counts in kinds.values()) else 0


def write_counts(path: Path, name: str, counts: dict[str, Any]) -> None:
    """Put a kind's counts into the file, beside those of the other kinds."""
    kinds = json.loads(path.read_text(encoding="utf-8"))["kinds"] if path.exists() else {}
    kinds = {**kinds, name: counts}
    ordered = {kind: kinds[kind] for kind in KINDS if kind in kinds}
    write_text(path, json.dumps({"kinds": ordered}, indent=1, ensure_ascii=False) + "\n")


def _is_there(kind: Kind) -> bool:
    return importlib.util.find_spec(kind.function.partition(":")[0]) is not None


if __name__ == "__main__":
    sys.exit(main())
