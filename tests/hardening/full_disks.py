"""A disk that is full in the middle of a command; then there is room, and the same command again.

It holds where the command names the file in one line, what was whole before is whole to the byte,
and what goes on ends with the results of a run that had room. Where no disk can be mounted, and in
a third of the cases, the system refuses to make a file longer than so much, as a quota does.
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.hardening.cases import Case
from tests.hardening.commands import USUAL, Bounds, Said, ran, refusal_of, results
from tests.hardening.disks import LARGE, disk, leave_room, may_mount
from tests.hardening.workspace import prepare
from tests.hardening.writers import WRITERS, Alone, Undisturbed, Writer, digests

KIND = "full disks"
SMALLEST = 2**14  # bytes of a file; what a command prints goes to a file as well
# Of a run that goes on: they say so.
MAY_CHANGE = ("config.yaml", "versions.json", "metrics.jsonl", "complete", "README.md")


def filled_and_gone_on(folder: Path, count: int, seed: int) -> Iterator[Case]:
    """Give ``count`` commands too little room, one kind after the other and round again.

    Args:
        folder: an empty one, or one that is not there.
    """
    draw, undisturbed = random.Random(seed), Undisturbed(folder / "whole")
    prepare(undisturbed.whole)
    for number in range(count):
        name, turn = [*WRITERS][number % len(WRITERS)], number // len(WRITERS)
        writer, alone = WRITERS[name], undisturbed.of(name)
        with ExitStack() as whole:
            if may_mount() and turn % 3 < 2:
                small = whole.enter_context(disk(folder / "disk"))
                copy = whole.enter_context(undisturbed.copy(small / "copy"))
                room = draw.randrange(alone.room)
                leave_room(small, room)
                before, bounds = digests(copy), USUAL
                what = f"{room:,} of {alone.room:,} bytes of disk"
            else:
                small, copy = None, whole.enter_context(undisturbed.copy())
                longest = draw.randrange(SMALLEST, max(alone.largest, SMALLEST + 1))
                before, bounds = digests(copy), Bounds(file=longest)
                what = f"files of {longest:,} of {alone.largest:,} bytes"
            said = ran(copy, writer.words, bounds)
            kept = digests(copy)
            if small is not None:
                leave_room(small, LARGE)
            outcome, said = _outcome(copy, said, before, kept, writer, alone)
        yield Case(KIND, f"{name}, {what} (seed {seed}, number {number})", outcome, said.end)


def _outcome(
    copy: Path,
    said: Said,
    before: dict[str, str],
    kept: dict[str, str],
    writer: Writer,
    alone: Alone,
) -> tuple[str, Said]:
    """How the command ended, and after it the same command with room."""
    if said.code == 0:  # it fitted
        return ("held" if results(copy, writer.writes) == alone.results else "silent"), said
    names = (f"{writer.folder}/", f" {writer.folder}:", f" {writer.folder} ", "rows/")
    outcome = refusal_of(said, names)
    lost = [
        name
        for name, digest in before.items()
        if kept.get(name) != digest and Path(name).name not in MAY_CHANGE
    ]
    if outcome != "held" or lost:
        return outcome if outcome != "held" else f"lost {lost[0]}", said
    again = ran(copy, (*writer.words, *writer.more))
    if again.code != 0 or results(copy, writer.writes) != alone.results:
        return ("silent" if again.code == 0 else "lost"), again
    return "held", said
