"""``kill -9`` at a random moment, once or twice, then the same command again.

It holds where the results are those of a run that nobody killed, and nothing else is left behind.
"""

import random
import time
from collections.abc import Iterator
from pathlib import Path

from tests.hardening.cases import Case
from tests.hardening.commands import ended, ran, results, started
from tests.hardening.workspace import prepare
from tests.hardening.writers import WRITERS, Undisturbed, left

KIND = "kills"


def killed_and_gone_on(folder: Path, count: int, seed: int) -> Iterator[Case]:
    """Kill ``count`` commands, one kind after the other and round again.

    Args:
        folder: an empty one, or one that is not there.
    """
    draw, undisturbed = random.Random(seed), Undisturbed(folder / "whole")
    prepare(undisturbed.whole)
    for number in range(count):
        name = [*WRITERS][number % len(WRITERS)]
        writer, alone = WRITERS[name], undisturbed.of(name)
        with undisturbed.copy() as copy:
            moments, words = [], writer.words
            for _ in range(draw.choice((1, 1, 2))):
                moments.append(draw.uniform(0.05, alone.seconds))
                running = started(copy, words)
                time.sleep(moments[-1])
                running.process.kill()
                ended(running)
                words = (*writer.words, *writer.more)
            said = ran(copy, words)
            remains = left(copy / writer.folder) - alone.names
            outcome = "held"
            if said.code != 0 or results(copy, writer.writes) != alone.results:
                outcome = "silent" if said.code == 0 else "lost"
            elif remains:
                outcome = "left over"
        after = " and ".join(f"{moment:.2f}" for moment in moments)
        what = f"{name}, killed after {after} of {alone.seconds:.2f} s"
        message = f"left over: {', '.join(sorted(remains))}" if remains else said.end
        yield Case(KIND, f"{what} (seed {seed}, number {number})", outcome, message)
