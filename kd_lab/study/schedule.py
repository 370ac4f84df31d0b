"""Which tasks of a study are done, which can begin, and how long the rest will take.

A task is one ``kd-lab`` command and the tasks it needs. FOLDER/tasks/TASK.json records the command
and, once it is done, its seconds. So a stopped study goes on where it was.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from kd_lab.files import damaged, read_mapping, sha256_of, write_text
from kd_lab.recipe import find_recipe


@dataclass(frozen=True)
class Task:
    """One command of a study."""

    name: str  # "train token_fkl-1"
    words: tuple[str, ...]  # of the command line, after kd-lab
    result: Path  # a file it leaves, maybe before its end; that it ended well is in the record
    after: tuple[str, ...] = ()  # tasks that must be done before
    kind: str = ""  # tasks of one kind take about the same time: all seeds of a recipe
    seconds: float = 10.0  # an estimate, until a task of its kind was measured

    @property
    def file_name(self) -> str:
        """The name of its log and its record."""
        return self.name.replace(" ", "-")

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the command and of the recipe that it names."""
        recipe = ""
        if "--config" in self.words:
            recipe = find_recipe(self.words[self.words.index("--config") + 1]).read_text("utf-8")
        return sha256_of(json.dumps([self.words, recipe]))


class Record(NamedTuple):
    """What FOLDER/tasks/TASK.json says of a task that has begun."""

    words: list[str]
    fingerprint: str
    seconds: float | None  # None: it is not done


class Schedule:
    """Which tasks of a study are done, and how long the others will take."""

    def __init__(self, folder: Path, tasks: Sequence[Task]) -> None:
        self.folder, self.tasks = folder, {task.name: task for task in tasks}
        self.followers: dict[str, set[str]] = {name: set() for name in self.tasks}
        for task in reversed(tasks):  # a task's followers wait for it, directly or not
            for before in task.after:
                self.followers[before] |= {task.name, *self.followers[task.name]}
        self.seconds: dict[str, float] = {}  # of each finished task

    @property
    def waiting(self) -> list[Task]:
        """The tasks that are not done, in the given order."""
        return [task for task in self.tasks.values() if task.name not in self.seconds]

    def look(self) -> None:
        """Read from the folder which tasks are done.

        Raises:
            ValueError: a task was done with other settings, its input is gone, or its record is
                damaged.
        """
        self.seconds = {}
        for task in self.tasks.values():
            record = read_record(self.folder, task)
            if record is None:
                continue
            if record.fingerprint != task.fingerprint:
                raise ValueError(
                    f"{self.folder} holds {task.name} with other settings "
                    f"({record_path(self.folder, task)}): give another --output_dir, or remove the "
                    "folder"
                )
            if record.seconds is None or not task.result.exists():
                continue
            if gone := [name for name in task.after if name not in self.seconds]:
                raise ValueError(
                    f"{self.folder} holds {task.name}, but not its input ({gone[0]}): "
                    "give another --output_dir, or remove the folder"
                )
            self.seconds[task.name] = record.seconds

    def note(self, task: Task, seconds: float | None) -> None:
        """Record that a task has begun (None), or its seconds."""
        path = record_path(self.folder, task)
        record = {"words": task.words, "fingerprint": task.fingerprint, "seconds": seconds}
        write_text(path, json.dumps(record, indent=1) + "\n")
        if seconds is not None:
            self.seconds[task.name] = seconds

    def log(self, task: Task) -> Path:
        return self.folder / "logs" / f"{task.file_name}.log"

    def next(self, begun: Sequence[str]) -> Task | None:
        """The free task that most work waits for; None if no task can begin."""
        expected = self.expected()
        free = [
            task
            for task in self.waiting
            if task.name not in begun and all(name in self.seconds for name in task.after)
        ]
        return max(free, key=lambda task: self._work(task.name, expected), default=None)

    def expected(self) -> dict[str, float]:
        """The expected seconds of each waiting task, from the times measured so far."""
        measured: dict[str, list[float]] = {}
        for name, seconds in self.seconds.items():
            measured.setdefault(self.tasks[name].kind, []).append(seconds)
        estimated = sum(self.tasks[name].seconds for name in self.seconds)
        pace = sum(self.seconds.values()) / estimated if estimated else 1.0
        return {
            task.name: sum(times) / len(times)
            if (times := measured.get(task.kind))
            else pace * task.seconds
            for task in self.waiting
        }

    def seconds_left(self, running: Mapping[str, float], workers: int) -> float:
        """The seconds until everything is done, by simulating the rest.

        Args:
            running: the running tasks, and the seconds since each began.
            workers: how many commands run at the same time.
        """
        expected = self.expected()
        work = {name: self._work(name, expected) for name in expected}
        # A task that has outlasted its estimate is expected to end soon.
        ends = {name: max(expected[name] - since, 1.0) for name, since in running.items()}
        done, waiting, now = set(self.seconds), set(expected) - set(running), 0.0
        while True:
            for name in sorted(waiting, key=work.__getitem__, reverse=True):
                if len(ends) < workers and done.issuperset(self.tasks[name].after):
                    ends[name] = now + expected[name]
                    waiting.remove(name)
            if not ends:
                return now
            first = min(ends, key=ends.__getitem__)
            now = ends.pop(first)
            done.add(first)

    def _work(self, name: str, expected: Mapping[str, float]) -> float:
        """The seconds of the task and of all that waits for it."""
        return sum(expected[each] for each in {name, *self.followers[name]})


def record_path(folder: Path, task: Task) -> Path:
    """Where the record of a task is, whether there is one or not."""
    return folder / "tasks" / f"{task.file_name}.json"


def read_record(folder: Path, task: Task) -> Record | None:
    """The record of a task; None if it has not begun.

    Raises:
        ValueError: the record is damaged; names the file, and what mends it.
    """
    path = record_path(folder, task)
    if not path.exists():
        return None
    mend = f"remove it and give the command of the study again, which runs {task.name} anew"
    found = read_mapping(path, mend)
    words, fingerprint = found.get("words"), found.get("fingerprint")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise damaged(path, "it has no words", mend)
    if not isinstance(fingerprint, str):
        raise damaged(path, "it has no fingerprint", mend)
    seconds = found.get("seconds", math.nan)
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (is_number and 0 <= seconds < math.inf):
        raise damaged(path, "its seconds are no time", mend)
    return Record(words, fingerprint, seconds)
