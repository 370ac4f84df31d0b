"""Ctrl-C at a random moment, then the same command again.

It holds where the command ends in one line that says how to go on, with exit code 130, and what
goes on ends with the results of a run that nobody stopped.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from kd_lab.refusals import stopped
from tests.hardening.cases import Case
from tests.hardening.commands import Said, ended, interrupt, ran, results, started
from tests.hardening.workspace import RIGHT, prepare
from tests.hardening.writers import WRITERS, Undisturbed

KIND = "Ctrl-C"
READERS = ("plan", "check", "doctor")  # they write nothing, and take about a second
NEW_PROCESS_EVERY = 7  # cases: it is no fork, and so imports its libraries
IMPORTS = 8.0  # seconds, at the most


def stopped_and_gone_on(folder: Path, count: int, seed: int) -> Iterator[Case]:
    """Stop ``count`` commands, one kind after the other and round again.

    Args:
        folder: an empty one, or one that is not there.
    """
    draw, undisturbed = random.Random(seed), Undisturbed(folder / "whole")
    prepare(undisturbed.whole)
    names = [*WRITERS, *READERS]
    for number in range(count):
        name = names[number % len(names)]
        is_new = number % NEW_PROCESS_EVERY == NEW_PROCESS_EVERY - 1
        moment = draw.uniform(0, undisturbed.of(name).seconds if name in WRITERS else 1)
        moment += draw.uniform(0, IMPORTS) if is_new else 0.02
        with undisturbed.copy() as copy:
            words = WRITERS[name].words if name in WRITERS else (name, *RIGHT[name])
            said = (_new_process if is_new else _fork)(copy, words, moment)
            outcome = _how_it_ended(said, words[0])
            if name in WRITERS and outcome == "held":
                writer = WRITERS[name]
                again = ran(copy, (*words, *(() if said.code == 0 else writer.more)))
                # A command that had ended finds its work done, or its folder taken.
                if again.code != 0 and said.code != 0:
                    outcome, said = "lost", again
                elif results(copy, writer.writes) != undisturbed.of(name).results:
                    outcome = "silent"
        how = f"{name} in {'a new process' if is_new else 'a fork'}, stopped after {moment:.2f} s"
        how += ", when it was done" if said.code == 0 else ""
        what = f"{how} (seed {seed}, number {number})"
        yield Case(KIND, what, outcome, said.end)


def _how_it_ended(said: Said, command: str) -> str:
    lines = said.err.splitlines()
    if said.code is None:
        return "hangs"
    if "Traceback" in said.err or "Exception ignored" in said.err:
        return "traceback"
    if said.code == 0:  # it was faster
        return "held"
    if said.code != 130:
        return "lost"
    if sum(line.startswith("kd-lab: stopped") for line in lines) != 1:
        return "several lines"
    return "held" if lines[-1] == stopped(command).line else "not named"


def _fork(folder: Path, words: Sequence[str], moment: float) -> Said:
    running = started(folder, words)
    time.sleep(moment)
    if running.process.is_alive():
        interrupt(running)
    return ended(running)


def _new_process(folder: Path, words: Sequence[str], moment: float) -> Said:
    """As a shell starts it; it is stopped so long after it has begun to import its libraries."""
    settings = {"KD_LAB_CACHE": str(folder / "rows"), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a child inherits that it is ignored
        process = subprocess.Popen(
            [sys.executable, "-m", "kd_lab", *words], cwd=folder, stdout=out, stderr=err,
            env={**os.environ, "OMP_NUM_THREADS": "1", **settings}, process_group=0,
        )  # fmt: skip
        signal.signal(signal.SIGINT, before)
        while not os.fstat(err.fileno()).st_size and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moment)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        code = process.wait()
        out.seek(0)
        err.seek(0)
        return Said(code, out.read(), err.read())
