"""Bad command lines by the hundred: each is refused in one line that names what is wrong.

They are made from the fields that the commands take, so new options are covered, and from the
kinds of damage that people met. A right refusal is exit 2 (or 1), one line, before a model loads.
"""

import random
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.hardening.bad_files import bad_paths, bad_recipes, bad_runs, bad_words, not_here
from tests.hardening.bad_values import BadLine, bad_values
from tests.hardening.cases import Case
from tests.hardening.commands import Bounds, Said, ran, refusal_of
from tests.hardening.workspace import prepare

KIND = "command line"
BOUNDS = Bounds(seconds=60, memory=24 * 2**30)


def bad_command_lines(folder: Path, count: int, seed: int) -> Iterator[Case]:
    """Run bad command lines, each in a process of its own.

    Args:
        folder: an empty one, or one that is not there.
        count: of lines; all commands and kinds have their share.
        seed: of the choice.
    """
    whole = folder / "whole"
    prepare(whole)
    for line in chosen(whole, count, seed):
        yield tried(whole, line)


def chosen(folder: Path, count: int, seed: int) -> list[BadLine]:
    """So many lines; a half of them are values, and every command has its turn among these."""
    draw = random.Random(seed)
    by_command: dict[str, list[BadLine]] = {}
    for line in bad_values(draw):
        by_command.setdefault(line.words[0], []).append(line)
    files = [*bad_paths(folder), *bad_runs(folder), *bad_recipes(), *not_here(), *bad_words()]
    for lines in (*by_command.values(), files):
        draw.shuffle(lines)
    values = []
    while len(values) < count - count // 2 and any(by_command.values()):
        values += [lines.pop() for lines in by_command.values() if lines]
    return [*values[: count - count // 2], *files[: count // 2]]


def tried(folder: Path, line: BadLine) -> Case:
    """Run a line, and say how the command refused it."""
    if line.recipe is not None:
        content = line.recipe if isinstance(line.recipe, bytes) else line.recipe.encode()
        (folder / "recipe.yaml").write_bytes(content)
    said = ran(folder, line.words, BOUNDS)
    shutil.rmtree(folder / "out", ignore_errors=True)  # of what should not have done anything
    what = f"kd-lab {shlex.join(line.words)}"
    if line.recipe is not None:
        what += f"  # recipe.yaml: {line.recipe!r:.80}"
    return Case(KIND, what, outcome(said, line.named), said.err.strip()[-400:])


def outcome(said: Said, named: tuple[str, ...]) -> str:
    """ "held", or how a refusal falls short; see ``Case``."""
    if said.code == 0:
        return "accepted"
    refused = refusal_of(said, named)
    return "late" if refused == "held" and said.loaded else refused
