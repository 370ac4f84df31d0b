"""Two commands start in one folder, together or half a second apart.

It holds where what is there in the end is what one of them writes alone. The other finds it done,
or is refused in one line that names the folder.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.hardening.cases import Case
from tests.hardening.commands import ERROR, USUAL, Said, ended, outcome_of, ran, results, started
from tests.hardening.workspace import COMMANDS, TEACHER, prepare
from tests.hardening.writers import CACHE, GENERATE, MAKE_DATA, MODEL, OUT, TRAIN

KIND = "two writers"


class Pair(NamedTuple):
    """Two commands with one folder, the seconds between them, and what they write."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    apart: float
    writes: tuple[str, ...] = ("out/*",)
    folder: str = "out"


PAIRS = (
    Pair(TRAIN, TRAIN, 0, MODEL),
    Pair(TRAIN, (*TRAIN, "--seed", "7"), 0, MODEL),
    Pair(TRAIN, (*TRAIN, "--resume_from_checkpoint", "true"), 0.5, MODEL),
    Pair(MAKE_DATA, MAKE_DATA, 0),
    Pair(GENERATE, GENERATE, 0),
    Pair(CACHE, CACHE, 0),
    Pair(COMMANDS["report"], COMMANDS["report"], 0, ("report/*",), "report"),
    Pair(COMMANDS["evaluate"], COMMANDS["evaluate"], 0.5, ("run/evaluation.json",), "run"),
    Pair(TRAIN, TRAIN, 0.5, MODEL),
    Pair(TRAIN, (*TRAIN, "--resume_from_checkpoint", "true"), 1.5, MODEL),
    Pair(MAKE_DATA, MAKE_DATA, 0.5),
    Pair(MAKE_DATA, (*MAKE_DATA, "--conversation_seed", "5"), 0),
    Pair(MAKE_DATA, (*MAKE_DATA, "--conversation_seed", "5"), 0.1),
    Pair(GENERATE, GENERATE, 0.2),
    Pair(GENERATE, GENERATE, 0.5),
    Pair(GENERATE, (*GENERATE, "--generation_seed", "5"), 0),
    Pair(CACHE, CACHE, 0.2),
    Pair(CACHE, CACHE, 0.5),
    Pair(CACHE, (*CACHE, "--teacher_signal", "topk", "--topk", "8"), 0),
    Pair(COMMANDS["report"], COMMANDS["report"], 0.5, ("report/*",), "report"),
    Pair(COMMANDS["evaluate"], COMMANDS["evaluate"], 0, ("run/evaluation.json",), "run"),
    Pair(COMMANDS["evaluate"], COMMANDS["evaluate"], 0, ("run/evaluation.json",), "run"),
    Pair(COMMANDS["evaluate"], COMMANDS["evaluate"], 1, ("run/evaluation.json",), "run"),
)
# They go on for long: the second is refused while the first is at work, which is then killed.
ENDLESS = {
    "questions": ("questions", *TEACHER, "--num_questions", "100000", *OUT),
    "demo": ("demo", "--quick", "true", *OUT),
    "train under accelerate launch": (*TRAIN, "--max_steps", "100000", "--save_strategy", "no"),
}
LAUNCH = ("-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "-m", "kd_lab")


def two_in_one_folder(folder: Path, count: int) -> Iterator[Case]:
    """The first ``count`` of the pairs, and then the endless ones.

    Args:
        folder: an empty one, or one that is not there.
    """
    whole = folder / "whole"
    prepare(whole)
    alone: dict[tuple[str, ...], dict[str, str]] = {}
    for pair in PAIRS[:count]:
        for words in (pair.first, pair.second):
            if words not in alone:
                copy = shutil.copytree(whole, folder / "alone")
                ran(copy, words)
                alone[words] = results(copy, pair.writes)
                shutil.rmtree(copy)
        yield _pair(shutil.copytree(whole, folder / "copy"), pair, alone)
        shutil.rmtree(folder / "copy")
    for name, words in [*ENDLESS.items()][: max(0, count - len(PAIRS))]:
        yield _endless(shutil.copytree(whole, folder / "copy"), name, words)
        shutil.rmtree(folder / "copy")


def _pair(copy: Path, pair: Pair, alone: dict[tuple[str, ...], dict[str, str]]) -> Case:
    first = started(copy, pair.first)
    time.sleep(pair.apart)
    second = started(copy, pair.second)
    both = [ended(first), ended(second)]
    found = results(copy, pair.writes)
    written = [found == alone[words] for words in (pair.first, pair.second)]
    done = [right for said, right in zip(both, written, strict=True) if said.code == 0]
    outcomes = [outcome_of(said, [pair.folder], any(done)) for said in both]
    failed = [outcome for outcome in outcomes if outcome != "held"]
    if not done:
        failed.append("lost")
    words = " ".join(pair.second[:1] + tuple(w for w in pair.second if w not in pair.first))
    what = f"{pair.first[0]} and {words}, {pair.apart:g} s apart"
    return Case(KIND, what, failed[0] if failed else "held", " // ".join(s.end for s in both))


def _endless(copy: Path, name: str, words: tuple[str, ...]) -> Case:
    """Where the first has a launcher, it is killed: its workers live, and the lock with them."""
    launched = name.endswith("launch")
    before = LAUNCH if launched else ("-m", "kd_lab")
    with (copy / "first.log").open("w") as log:
        first = subprocess.Popen(
            [sys.executable, *before, *words], cwd=copy, stdout=log, stderr=subprocess.STDOUT
        )
    at_work = copy / "out" / ("metrics.jsonl" if launched else ".lock")
    since = time.monotonic()
    while (
        not at_work.exists() and first.poll() is None and time.monotonic() - since < USUAL.seconds
    ):
        time.sleep(0.1)
    workers = psutil.Process(first.pid).children(recursive=True) if first.poll() is None else []
    if launched:
        first.kill()
        first.wait()
        words = (*words, "--resume_from_checkpoint", "true")
    said = ran(copy, words)
    for process in workers:
        if process.is_running():
            process.kill()
    if first.poll() is None:
        first.kill()
        first.wait()
    return Case(KIND, f"{name}, twice", _refused(said), said.end)


def _refused(said: Said) -> str:
    outcome = outcome_of(said, ["out"], same=False)
    if outcome == "held" and not said.end.startswith(f"{ERROR}another process is at work"):
        return "not named"
    return outcome
