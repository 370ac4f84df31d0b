"""Bad command lines by the hundred: each is refused in one line that names what is wrong.

They are made from the fields that the commands take, so new options are covered, and from the
kinds of damage that people met. A right refusal is exit 2 (or 1), one line, before a model loads.
"""

import random
import shlex
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from tests.hardening.bad_files import bad_paths, bad_recipes, bad_runs, bad_words, not_here
from tests.hardening.bad_values import BadLine, bad_values
from tests.hardening.cases import Case
from tests.hardening.command_line_workspace import clear, prepare
from tests.hardening.one_command import Ended, run_command

KIND = "command line"
ERROR = "kd-lab: error: "


def bad_command_lines(folder: Path, count: int, seed: int) -> Iterator[Case]:
    """Run bad command lines, each in a process of its own.

    Args:
        folder: a new folder, for models and files that the lines name.
        count: of lines; all commands and kinds have their share.
        seed: of the choice.
    """
    prepare(folder)
    for line in chosen(folder, count, seed):
        yield tried(folder, line)


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
    ended = run_command([*line.words], folder)
    clear(folder)
    what = f"kd-lab {shlex.join(line.words)}"
    if line.recipe is not None:
        what += f"  # recipe.yaml: {line.recipe!r:.80}"
    return Case(KIND, what, outcome(ended, line.named), ended.err.strip()[-400:])


def outcome(ended: Ended, named: tuple[str, ...]) -> str:
    """ "held", or how a refusal falls short; see ``Case``."""
    lines = [line for line, _ in groupby(ended.err.splitlines())]
    errors = [number for number, line in enumerate(lines) if line.startswith(ERROR)]
    if ended.code is None:
        return "hangs"
    if ended.code == 0:
        return "accepted"
    faulty = "Traceback" in ended.err or "a fault of KD Lab" in ended.err
    if faulty or not errors or ended.code not in (1, 2):
        return "traceback"
    if len(errors) > 1 or lines[errors[0] + 1 :]:
        return "several lines"
    if not any(name in lines[errors[0]] for name in named):
        return "not named"
    return "late" if ended.loaded else "held"
