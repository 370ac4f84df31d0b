"""``python -m evidence`` measures finished runs, and writes the pages from the results.

    python -m evidence                       # lists the measurements
    python -m evidence NAME RUNS             # measures finished runs: assets/results/NAME.json
    python -m evidence publish STUDY RUNS    # copies a study's own report into assets/
    python -m evidence claims                # writes CLAIMS.md from assets/results/
    python -m evidence field_students RUNS   # trains students under other projects' losses
    python -m evidence check_alarms RUNS     # checks `kd-lab check` itself
    python -m evidence field                 # checks other projects' losses, and writes FIELD.md
    python -m evidence field_page            # writes FIELD.md from assets/results/

Run it in the project's folder. ``make evidence`` runs all of them.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from evidence.claims.page import write_page
from evidence.claims.results import Results
from evidence.measurements import MEASUREMENTS, RESULTS, take
from evidence.publish import PUBLISHED, publish
from kd_lab.files import write_text

PAGE = Path("CLAIMS.md")
FIELD_PAGE = Path("FIELD.md")
# Results of FIELD.md that need no finished runs: they make their own, and go on where they stopped.
OF_FIELD = {
    "field_students": ("evidence.field.students.results:measure", "students, by loss"),
    "check_alarms": ("evidence.field.alarms:measure", "false alarms and named faults"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    words = parser.parse_args(argv)
    if words.command is None:
        parser.print_help()
        return 0
    try:
        if not RESULTS.is_dir():
            raise ValueError(f"there is no {RESULTS} here: run this in the project's own folder")
        if words.command == "claims":
            PAGE.write_text(write_page(Results(RESULTS)).text, encoding="utf-8")
            written = [PAGE]
        elif words.command == "field":
            from evidence.field.measure import measure

            written = [_write("field", measure()), _write_field_page()]
        elif words.command == "field_page":
            written = [_write_field_page()]
        elif words.command in OF_FIELD:
            function = resolve_name(OF_FIELD[words.command][0])
            written = [_write(words.command, function(words.runs))]
        elif words.command == "publish":
            written = publish(words.study, words.runs)
        else:
            written = [take(words.command, words.runs)]
    except (ValueError, OSError) as refusal:
        print(f"evidence: error: {refusal}", file=sys.stderr)
        return 2
    print(f"wrote {', '.join(map(str, written))}")
    return 0


def _write(name: str, found: Mapping[str, Any]) -> Path:
    result = RESULTS / f"{name}.json"
    write_text(result, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    return result


def _write_field_page() -> Path:
    from evidence.field.page import write_page as write_field

    write_text(FIELD_PAGE, write_field(RESULTS))
    return FIELD_PAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evidence",
        description="Measure finished runs, and write assets/results/ and CLAIMS.md.",
    )
    commands = parser.add_subparsers(dest="command", metavar="NAME", title="names")
    for name, measurement in MEASUREMENTS.items():
        command = commands.add_parser(name, help=measurement.line)
        runs = f"the folder of a finished `kd-lab demo --study {measurement.study}`; only read"
        command.add_argument("runs", type=Path, metavar="RUNS", help=runs)
    command = commands.add_parser("publish", help="a study's own report, copied into assets/")
    command.add_argument("study", choices=PUBLISHED, metavar="STUDY", help=", ".join(PUBLISHED))
    command.add_argument("runs", type=Path, metavar="RUNS", help="the study's folder; only read")
    commands.add_parser("claims", help="CLAIMS.md, written from assets/results/")
    for name, (_, line) in OF_FIELD.items():
        command = commands.add_parser(name, help=f"{line}, for FIELD.md")
        command.add_argument(
            "runs", type=Path, metavar="RUNS", help="a folder; what is there stays"
        )
    commands.add_parser("field", help="other projects' losses, checked, and FIELD.md")
    commands.add_parser("field_page", help="FIELD.md, written from assets/results/")
    return parser


if __name__ == "__main__":
    sys.exit(main())
