"""Every command that writes a folder: how it goes on after it was broken off, and what it writes.

An undisturbed run of each says what is right, how long it takes, and how much room it needs.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kd_lab.files import sha256_of_file
from tests.hardening.commands import ran, results
from tests.hardening.workspace import COMMANDS, DATA, SHORT, STUDENT, TEACHER

OUT = ("--output_dir", "out")
TRAIN = (*STUDENT, *DATA, "--alpha", "0", "--max_steps", "20", "--save_steps", "5", *OUT)
GENERATE = ("generate", *TEACHER, *DATA, *SHORT, *OUT)
CACHE = ("cache", *TEACHER, *DATA, "--rows_per_shard", "2", *OUT)
MAKE_DATA = ("data", "--dataset", "toy", "--num_conversations", "3000", *OUT)
MODEL = ("out/*.safetensors", "out/*.json", "out/*.jsonl")
RESUME = ("--resume_from_checkpoint", "true")
ON_POLICY = ("--prefixes", "student", *TEACHER, "--alpha", "1", "--max_new_tokens", "4")
BLOCK = 4096  # bytes


class Writer(NamedTuple):
    """A command, what is added to go on with it, and what it writes."""

    words: tuple[str, ...]
    more: tuple[str, ...] = ()
    writes: tuple[str, ...] = ("out/*",)
    folder: str = "out"


WRITERS = {
    "train": Writer(TRAIN, RESUME, MODEL),
    "generate": Writer(GENERATE),
    "cache": Writer(CACHE),
    "train on policy": Writer((*TRAIN, *ON_POLICY), RESUME, MODEL),
    "cache of the top k": Writer((*CACHE, "--teacher_signal", "topk", "--topk", "8")),
    "data": Writer(MAKE_DATA),
    "evaluate": Writer(
        ("evaluate", "--model_name_or_path", "start", *COMMANDS["evaluate"][3:], *OUT),
        writes=("out/evaluation.json", "out/answers/*/*"),
    ),
    "questions": Writer(
        ("questions", "--teacher_model_name_or_path", "start", "--num_questions", "12",
         "--num_test_questions", "4", "--max_new_tokens", "60", *OUT),
    ),
    "resumed training": Writer(
        (*COMMANDS["run"], *RESUME, "--max_steps", "6"),
        writes=("run/*.safetensors", "run/metrics.jsonl"), folder="run",
    ),
    "report": Writer(
        ("report", "run", "--output_dir", "report"), writes=("report/*",), folder="report"
    ),
    "demo": Writer(
        ("demo", "--quick", "true", "--seeds", "1", *OUT),
        writes=("out/*/*.safetensors", "out/report/table.csv"),
    ),
}  # fmt: skip


class Alone(NamedTuple):
    """What a command writes when nothing disturbs it."""

    seconds: float
    results: dict[str, str]
    names: set[str]  # of all that is left
    room: int  # bytes of disk that it adds
    largest: int  # bytes of the largest file that it writes


class Undisturbed:
    """Runs each command once, when it is asked for, in a copy of the workspace."""

    def __init__(self, whole: Path) -> None:
        self.whole = whole
        self._known: dict[str, Alone] = {}

    def of(self, name: str) -> Alone:
        """What WRITERS[name] writes alone."""
        if name not in self._known:
            self._known[name] = self._run(WRITERS[name])
        return self._known[name]

    @contextmanager
    def copy(self, place: Path | None = None) -> Iterator[Path]:
        """A copy of the workspace that lasts for the block; ``place``: a new folder of its own."""
        copy = place or self.whole.with_name("copy")
        try:
            yield shutil.copytree(self.whole, copy)
        finally:
            shutil.rmtree(copy)

    def _run(self, writer: Writer) -> Alone:
        with self.copy(self.whole.with_name("alone")) as copy:
            before = digests(copy)
            since = time.monotonic()
            said = ran(copy, writer.words)
            seconds = time.monotonic() - since
            if said.code != 0:
                raise RuntimeError(f"undisturbed, kd-lab {writer.words[0]} failed: {said.err}")
            after = digests(copy)
            new = [copy / name for name in after if before.get(name) != after[name]]
            sizes = [path.stat().st_size for path in new]
            blocks = sum(-(-size // BLOCK) for size in sizes) + len({path.parent for path in new})
            return Alone(
                seconds,
                results(copy, writer.writes),
                left(copy / writer.folder),
                blocks * BLOCK,
                max(sizes),
            )


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder, locks apart."""
    return {
        path.relative_to(folder).as_posix(): sha256_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.name != ".lock"
    }


def left(folder: Path) -> set[str]:
    """The names of a folder's files, and of hidden ones beside it."""
    inside = (path for path in folder.rglob("*") if path.name != ".lock")
    beside = folder.parent.glob(f".{folder.name}*")
    return {path.relative_to(folder.parent).as_posix() for path in (*beside, *inside)}
