"""A folder that must not be written: one line that names it, before a model loads.

Its disk is read-only, or its permissions say no; root, who passes over these, gives up that right.
It holds where the command is refused so and every file is as it was. Tokenised rows are not worth a
refusal: where they cannot be kept, the command goes on without.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.hardening.cases import Case
from tests.hardening.commands import Bounds, Said, ran, refusal_of, results
from tests.hardening.disks import disk, make_read_only, may_mount
from tests.hardening.workspace import COMMANDS, prepare
from tests.hardening.writers import OUT, WRITERS, Undisturbed, digests

KIND = "read-only folders"
SHUT = "shut"  # the folder that must not be written, or that of tokenised rows
ROWS = "rows"


class Try(NamedTuple):
    """A command, the folder that it writes below the shut one, and what is there of it before."""

    words: tuple[str, ...]
    folder: str
    there: str = "nothing"  # or "an empty folder", or "all": what earlier commands wrote


NEW = ("data", "questions", "generate", "cache", "train", "evaluate", "demo")
READS_ROWS = ("generate", "cache", "train", "evaluate")
TRIES = (
    *(Try(WRITERS[name].words, "out") for name in NEW),
    Try(("report", "run", *OUT), "out"),
    *(Try(WRITERS[name].words, "out", "an empty folder") for name in NEW),
    Try(("report", "run", *OUT), "out", "an empty folder"),
    Try(WRITERS["resumed training"].words, "run", "all"),
    Try(COMMANDS["evaluate"], "run", "all"),
    Try(WRITERS["report"].words, "report", "all"),
    *(Try(WRITERS[name].words, ROWS) for name in READS_ROWS),
)


def refused_folders(folder: Path, count: int) -> Iterator[Case]:
    """The first ``count`` of the tries, each by permissions and by a disk of its own.

    Args:
        folder: an empty one, or one that is not there.
    """
    undisturbed = Undisturbed(folder / "whole")
    prepare(undisturbed.whole)
    tries = [(one, by_disk) for one in TRIES for by_disk in (False, True)[: 1 + may_mount()]]
    for one, by_disk in tries[:count]:
        with ExitStack() as until_tried:
            copy = until_tried.enter_context(undisturbed.copy())
            place = copy / (ROWS if one.folder == ROWS else SHUT)
            shutil.rmtree(copy / ROWS)
            if by_disk:
                until_tried.enter_context(disk(place))
            else:
                place.mkdir()
            if one.there == "all":
                shutil.move(copy / one.folder, place)
            elif one.there == "an empty folder":
                (place / one.folder).mkdir()
            before = digests(copy)
            said = _tried(copy, one, place, by_disk)
            lost = {*before.items()} - {*digests(copy).items()}
            outcome = f"lost {min(lost)[0]}" if lost else _outcome(copy, one, said, undisturbed)
        how = "on a read-only disk" if by_disk else "without permission"
        yield Case(KIND, f"{' '.join(one.words)}: {one.there} there, {how}", outcome, said.end)


def _tried(copy: Path, one: Try, place: Path, by_disk: bool) -> Said:
    below = {one.folder: f"{SHUT}/{one.folder}"} if place.name == SHUT else {}
    words = [one.words[0], *(below.get(word, word) for word in one.words[1:])]
    folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
    if by_disk:
        make_read_only(place)
        return ran(copy, words)
    for each in folders:
        each.chmod(0o555)
    try:
        return ran(copy, words, Bounds(heeds_permissions=True))
    finally:
        for each in folders:
            each.chmod(0o755)


def _outcome(copy: Path, one: Try, said: Said, undisturbed: Undisturbed) -> str:
    if one.folder == ROWS:
        name = next(name for name, writer in WRITERS.items() if writer.words == one.words)
        same = results(copy, WRITERS[name].writes) == undisturbed.of(name).results
        return ("held" if same else "silent") if said.code == 0 else "lost"
    if said.code == 0:
        return "accepted"
    refused = refusal_of(said, [SHUT])
    return "late" if refused == "held" and said.loaded else refused
