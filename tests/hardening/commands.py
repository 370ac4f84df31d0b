"""``kd-lab`` in forked processes, each in a folder; what it said, and what it left."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kd_lab.cli import main
from kd_lab.files import sha256_of, sha256_of_file
from tests.helpers.forked_processes import one_process

LONGEST = 300.0  # seconds of a command here; one that takes longer hangs
ERROR = "kd-lab: error: "
# What differs between two runs of one command: durations, memory, the time of day.
OF_A_MOMENT = re.compile("second|runtime|peak|started|speed|versions|^sha256$")
NOT_A_RESULT = ("README.md", "versions.json", "complete", "training_args.bin", ".lock")


class Said(NamedTuple):
    """A command's exit code (negative: by which signal it died), and all that it printed."""

    code: int
    text: str

    @property
    def end(self) -> str:
        """Its error and all after it, or else its last line."""
        at = self.text.rfind(ERROR)
        return self.text[at:].strip() if at >= 0 else self.text.strip().rpartition("\n")[2]


def started(folder: Path, words: Sequence[str], log: Path) -> ForkServerProcess:
    """``kd-lab WORDS`` at work in a folder; the rows that it tokenises stay in its ``rows``."""
    return one_process(_command, folder, [*words], log=log)


def ended(process: ForkServerProcess, log: Path) -> Said:
    """Wait for a command."""
    process.join(LONGEST)
    if process.is_alive():
        process.kill()
        process.join()
        return Said(-1, f"it did not end within {LONGEST:g} s")
    return Said(process.exitcode or 0, log.read_text(errors="replace"))


def ran(folder: Path, words: Sequence[str]) -> Said:
    """Run a command to its end."""
    log = folder.with_name(f"{folder.name}.log")
    return ended(started(folder, words, log), log)


def outcome_of(said: Said, names: Iterable[str], same: bool) -> str:
    """Whether a command held, and if not, how it failed.

    Args:
        names: of the file or folder at fault; a refusal has one of them.
        same: whether the results are those of an undamaged, lonely, uninterrupted command.
    """
    if "Traceback (most recent call last)" in said.text:
        return "traceback"
    if said.code == 0:
        return "held" if same else "silent"
    if said.code < 0 or not said.end.startswith(ERROR):
        return "lost"
    if len(said.end.splitlines()) > 1:
        return "several lines"
    return "held" if any(name in said.end for name in names) else "not named"


def results(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    """What a command left: the files' names and digests, without durations and times of day."""
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {
        path.relative_to(folder).as_posix(): _digest(path)
        for path in sorted(paths)
        if path.name not in NOT_A_RESULT
    }


def _digest(path: Path) -> str:
    if path.name not in ("metrics.jsonl", "evaluation.json"):
        return sha256_of_file(path)
    try:
        values = [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError:
        return sha256_of_file(path)
    # The summary's mean loss is of the steps since the last start.
    lasting = [_lasting(value) for value in values if "train_runtime" not in value]
    return sha256_of(json.dumps(lasting, sort_keys=True))


def _lasting(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if not OF_A_MOMENT.search(key)}


def _command(folder: Path, words: Sequence[str]) -> int:
    os.chdir(folder)
    os.environ["KD_LAB_CACHE"] = str(folder / "rows")
    torch.set_num_threads(1)  # models this small are fastest so, and their bits are then the same
    return main(words)
