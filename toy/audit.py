"""Which of the post's toy claims hold: every sweep behind them, in one command.

Results go to OUT/results/*.json, pictures to OUT, the main findings to the screen. A sweep is many
independent units of work. Each finished unit is kept under OUT/results/.partial, so an interrupted
audit continues where it was.

    python toy/audit.py                  # everything, into assets/
    python toy/audit.py --only ranks     # one part of it
    python toy/audit.py --quick          # under a minute, the same structure, into build/audit/

A part is a module: its settings, its units, the summary of their results, and its pictures.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kd_lab import divergences, head_mask
from kd_lab.files import (
    SEAL,
    check_sealed,
    damaged,
    read_mapping,
    sealed,
    sha256_of,
    whole_file,
    write_text,
)
from toy import (
    audit_one_gaussian,
    audit_rank_curves,
    audit_ranks,
    audit_two_gaussians,
    mixture,
    mixture_fit,
    rank_race,
)
from toy.script import Parser, run_script, whole, writable_folder

# Each part is a module with FULL and QUICK settings, units(settings), summarise(settings, results),
# findings(summary), RESULTS (a file name) and PICTURES (file name: function of summary and path);
# beside it stand the modules whose code decides its numbers.
PARTS: dict[str, tuple[ModuleType, ...]] = {
    "one_gaussian": (audit_one_gaussian, mixture_fit, mixture, divergences, head_mask),
    "two_gaussians": (audit_two_gaussians, mixture_fit, mixture, divergences, head_mask),
    "ranks": (audit_ranks, rank_race, divergences, head_mask),
    "rank_curves": (audit_rank_curves, rank_race, divergences, head_mask),
}
Units = Mapping[str, Callable[[], dict[str, Any]]]


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    out = writable_folder(arguments.out or Path("build/audit" if arguments.quick else "assets"))
    writable_folder(out / "results")
    for name in arguments.only or PARTS:
        check_replaceable(out / "results" / PARTS[name][0].RESULTS, quick=arguments.quick)
    with workers(arguments.jobs) as pool:
        for name in arguments.only or PARTS:
            for line in run_part(name, out, quick=arguments.quick, pool=pool):
                print(line)


def run_part(name: str, out: Path, *, quick: bool, pool: Executor) -> list[str]:
    """Run the missing units of one part, write its results and pictures, and return its findings.

    The last finding names the written files.
    """
    part, *_ = PARTS[name]
    settings = part.QUICK if quick else part.FULL
    # Units of other settings, or of code that has changed since, are not mixed in.
    partial = out / "results" / ".partial" / name
    own = partial / _fingerprint(name, settings)
    results = run_units(part.units(settings), own, pool, name)

    summary = {"quick": quick, **part.summarise(settings, results)}
    written = [out / "results" / part.RESULTS]
    write_text(written[0], json.dumps(summary))
    for file_name, draw in part.PICTURES.items():
        written.append(out / file_name)
        with whole_file(written[-1]) as path:
            draw(summary, path)
    shutil.rmtree(own)  # those of other settings may go on
    for folder in (partial, partial.parent):
        if not any(folder.iterdir()):
            folder.rmdir()
    return [*part.findings(summary), f"wrote {', '.join(map(str, written))}"]


def check_replaceable(results: Path, *, quick: bool) -> None:
    """Refuse to write quick results over full ones.

    Raises:
        ValueError: names the file, and the option to change.
    """
    if quick and results.is_file():
        mend = "remove it, or give another --out"
        if read_mapping(results, mend).get("quick") is not True:
            raise ValueError(f"--quick would replace full results in {results}: give another --out")


def run_units(units: Units, folder: Path, pool: Executor, title: str) -> dict[str, dict[str, Any]]:
    """Run the units that ``folder`` does not hold yet and return the results of all.

    The process that ran a unit writes it to ``folder``/NAME.json at once. So nothing finished is
    lost, whatever stops the audit.

    Raises:
        ValueError: a unit that is there is damaged; names the file, and what mends it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.json" for name in units}
    results = {name: _kept(path) for name, path in files.items() if path.exists()}
    waiting = [name for name in units if name not in results]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=len(units), completed=len(units) - len(waiting))
        runs = [pool.submit(_run_and_keep, units[name], files[name]) for name in waiting]
        try:
            for run in as_completed(runs):
                run.result()
                progress.advance(task)
        finally:
            for run in runs:
                run.cancel()  # when one has failed; a finished one does not mind
    return {name: results.get(name) or _kept(path) for name, path in files.items()}


def _kept(path: Path) -> dict[str, Any]:
    """The result of a finished unit, as it was written."""
    mend = "remove it and give the same command again, which repeats this unit alone"
    result = read_mapping(path, mend)
    if SEAL not in result:
        raise damaged(path, "it has no checksum", mend)
    try:
        check_sealed(path, result)
    except ValueError as error:
        raise ValueError(f"{error}: {mend}") from error
    del result[SEAL]
    return result


def workers(jobs: int) -> ProcessPoolExecutor:
    """``jobs`` processes of one thread each."""
    # They start afresh ("spawn"): a fork would copy locks that torch's threads may hold.
    return ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=_prepare_worker
    )


def _prepare_worker() -> None:
    torch.set_num_threads(1)

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    # A killed parent says no goodbye, and its workers would wait for it for ever.
    threading.Thread(target=end_with_parent, daemon=True).start()


def _run_and_keep(unit: Callable[[], dict[str, Any]], path: Path) -> None:
    result = json.loads(json.dumps(unit()))  # as it will be read
    write_text(path, json.dumps(sealed(result)))


def _fingerprint(name: str, settings: object) -> str:
    code = (Path(str(module.__file__)).read_bytes() for module in PARTS[name])
    return sha256_of("units with a checksum", repr(settings), *code)[:16]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="few seeds and steps, to see that everything works"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="output folder (default: assets, with --quick build/audit)",
    )
    parser.add_argument(
        "--jobs", type=whole(1, 1000), default=2, help="processes of one thread each (default: 2)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), help="some parts of the audit (default: all)"
    )
    return parser


if __name__ == "__main__":
    run_script(main)
