"""``kill -9`` at a random moment, once or twice, then the same command again.

It holds where the results are those of a run that nobody killed, and nothing else is left behind.
"""

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.hardening.cases import Case
from tests.hardening.commands import ended, ran, results, started
from tests.hardening.two_writers import CACHE, GENERATE, MAKE_DATA, MODEL, OUT, TRAIN
from tests.hardening.workspace import COMMANDS, TEACHER, prepare

KIND = "kills"
RESUME = ("--resume_from_checkpoint", "true")
ON_POLICY = ("--prefixes", "student", *TEACHER, "--alpha", "1", "--max_new_tokens", "4")


class Killed(NamedTuple):
    """A command, what is added to go on with it, and what it writes."""

    words: tuple[str, ...]
    more: tuple[str, ...] = ()
    writes: tuple[str, ...] = ("out/*",)
    folder: str = "out"


COMMANDS_TO_KILL = {
    "train": Killed(TRAIN, RESUME, MODEL),
    "generate": Killed(GENERATE),
    "cache": Killed(CACHE),
    "train on policy": Killed((*TRAIN, *ON_POLICY), RESUME, MODEL),
    "cache of the top k": Killed((*CACHE, "--teacher_signal", "topk", "--topk", "8")),
    "data": Killed(MAKE_DATA),
    "evaluate": Killed(
        (*COMMANDS["evaluate"], *OUT), (), ("out/evaluation.json", "out/answers/*/*")
    ),
}  # fmt: skip


def killed_and_gone_on(folder: Path, count: int, seed: int) -> Iterator[Case]:
    """Kill ``count`` commands, one kind after the other and round again.

    Args:
        folder: an empty one, or one that is not there.
    """
    whole, draw = folder / "whole", random.Random(seed)
    prepare(whole)
    shutil.rmtree(whole / "run")
    shutil.copytree(whole / "teacher", whole / "run")  # a model to evaluate elsewhere
    (whole / "run" / "config.yaml").unlink()
    (whole / "run" / "complete").unlink()
    (whole / "run" / "versions.json").unlink()
    alone: dict[str, tuple[float, dict[str, str], set[str]]] = {}
    for number in range(count):
        name = [*COMMANDS_TO_KILL][number % len(COMMANDS_TO_KILL)]
        killed, copy = COMMANDS_TO_KILL[name], folder / "copy"
        if name not in alone:
            shutil.copytree(whole, copy)
            since = time.monotonic()
            ran(copy, killed.words)
            took = time.monotonic() - since
            alone[name] = took, results(copy, killed.writes), _left(copy / killed.folder)
            shutil.rmtree(copy)
        shutil.copytree(whole, copy)
        took, expected, files = alone[name]
        moments, again = [], ()
        log = copy.with_name("killed.log")
        for _ in range(draw.choice((1, 1, 2))):
            moments.append(draw.uniform(0.05, took))
            process = started(copy, (*killed.words, *again), log)
            time.sleep(moments[-1])
            process.kill()
            ended(process, log)
            again = killed.more
        said = ran(copy, (*killed.words, *again))
        left = _left(copy / killed.folder) - files
        outcome = "held"
        if said.code or results(copy, killed.writes) != expected:
            outcome = "lost" if said.code else "silent"
        elif left:
            outcome = "left over"
        after = " and ".join(f"{moment:.2f}" for moment in moments)
        what = f"{name}, killed after {after} of {took:.2f} s (seed {seed}, number {number})"
        message = f"left over: {', '.join(sorted(left))}" if left else said.end
        yield Case(KIND, what, outcome, message)
        shutil.rmtree(copy)


def _left(folder: Path) -> set[str]:
    """The names of a folder's files, and of hidden ones beside it."""
    inside = (path for path in folder.rglob("*") if path.name != ".lock")
    beside = folder.parent.glob(f".{folder.name}*")
    return {path.relative_to(folder.parent).as_posix() for path in (*beside, *inside)}
