"""A study that is stopped goes on where it was; and how long it says that it will take."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import psutil
import pytest

from kd_lab.demo import DemoArguments, run
from kd_lab.study.schedule import Schedule, Task
from kd_lab.study.toy import SECONDS, toy_study
from kd_lab.study.workers import run_study
from tests.helpers.forked_processes import one_process

DONE = [
    "evaluate-start", "evaluate-teacher", "evaluate-token_fkl-1",
    "train-start", "train-teacher", "train-token_fkl-1",
]  # fmt: skip


def chores(folder: Path, *, b_seconds: float = 10) -> list[Task]:
    def chore(name: str, *after: str, kind: str, seconds: float) -> Task:
        return Task(name, ("data", name), folder / name, after, kind, seconds)

    return [
        chore("a", kind="x", seconds=10),
        chore("b", "a", kind="y", seconds=b_seconds),
        chore("c", kind="x", seconds=5),
        chore("d", kind="x", seconds=5),
    ]


def test_what_most_work_waits_for_comes_first(tmp_path):
    schedule = Schedule(tmp_path, chores(tmp_path))
    assert schedule.next([]).name == "a"
    assert schedule.next(["a"]).name == "c"  # b has to wait
    assert schedule.next(["a", "c", "d"]) is None
    schedule.note(schedule.tasks["a"], 10)
    assert schedule.next([]).name == "b"


def test_how_long_it_will_take(tmp_path):
    schedule = Schedule(tmp_path, chores(tmp_path))
    assert schedule.seconds_left({}, workers=1) == 30
    assert schedule.seconds_left({}, workers=2) == 20  # a then b; c and d beside them
    assert schedule.seconds_left({"a": 4}, workers=2) == 16
    # Measured twice as slow as thought: what is of its kind takes as long, all else twice as long.
    schedule.note(schedule.tasks["a"], 20)
    assert schedule.expected() == {"b": 20, "c": 20, "d": 20}
    assert schedule.seconds_left({}, workers=1) == 60
    assert schedule.seconds_left({"b": 50}, workers=2) == 21  # b ends any moment
    for name in "bcd":
        schedule.note(schedule.tasks[name], 1)
    assert schedule.waiting == []
    assert schedule.seconds_left({}, workers=2) == 0


def test_what_is_done_is_known_by_record_and_result(tmp_path):
    first = Schedule(tmp_path, chores(tmp_path))
    for name in "abc":
        first.note(first.tasks[name], 3)
        first.tasks[name].result.touch()
    first.note(first.tasks["d"], None)  # begun, and cut off
    first.tasks["d"].result.touch()  # as generate's manifest, which comes before its answers
    (tmp_path / "c").unlink()

    again = Schedule(tmp_path, chores(tmp_path))
    again.look()
    assert [task.name for task in again.waiting] == ["c", "d"]

    (tmp_path / "a").unlink()
    with pytest.raises(ValueError, match=r"holds b, but not its input \(a\)"):
        again.look()


def test_other_settings_are_not_mixed_in(tmp_path):
    first = Schedule(tmp_path, [Task("a", ("train", "--seed", "1"), tmp_path / "a")])
    first.note(first.tasks["a"], None)
    other = Schedule(tmp_path, [Task("a", ("train", "--seed", "2"), tmp_path / "a")])
    with pytest.raises(ValueError, match="holds a with other settings"):
        other.look()
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("seed: 1\n")
    words = ("train", "--config", str(recipe))
    before = Task("b", words, tmp_path / "b").fingerprint
    recipe.write_text("seed: 2\n")
    assert Task("b", words, tmp_path / "b").fingerprint != before


@pytest.mark.parametrize(
    "content",
    [
        b'{"words": ["da', b"", b"[]", b"\xff", b"{}", b"null",
        b'{"words": 1, "fingerprint": "x", "seconds": 1}',
        b'{"words": ["a"], "seconds": 1}',
        b'{"words": ["a"], "fingerprint": "x"}',
        b'{"words": ["a"], "fingerprint": "x", "seconds": NaN}',
        b'{"words": ["a"], "fingerprint": "x", "seconds": "1"}',
    ],
)  # fmt: skip
def test_a_damaged_record_is_named_with_what_mends_it(tmp_path, content):
    record = tmp_path / "tasks" / "b.json"
    record.parent.mkdir()
    record.write_bytes(content)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as refusal:
        Schedule(tmp_path, chores(tmp_path)).look()
    assert str(refusal.value).startswith(f"{record} is damaged (")
    assert str(refusal.value).endswith("give the command of the study again, which runs b anew")


def test_the_toy_study_has_every_method_and_seed(tmp_path):
    tasks = toy_study(tmp_path, seeds=3)
    Schedule(tmp_path, tasks)  # each after what it needs
    trained = {task.name.removeprefix("train ") for task in tasks if task.name.startswith("train")}
    students = {f"{method}-{seed}" for method in SECONDS for seed in (1, 2, 3)}
    assert trained == {"teacher", "start", *students}
    assert {f"evaluate {name}" for name in trained} <= {task.name for task in tasks}


@pytest.mark.parametrize("wrong", [{"study": "tou"}, {"seeds": 0}, {"workers": 0}])
def test_wrong_arguments_are_refused(wrong, tmp_path):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        run(DemoArguments(**wrong, output_dir=str(tmp_path / "demo")))
    assert not (tmp_path / "demo").exists()


def run_mini_study(folder: Path, workers: int) -> None:
    """Of the toy study a teacher, a start and one student; its workers are forked, as it is.

    A study's own workers import torch and TRL anew (``test_a_run_that_fails_is_named_with_its_log``
    starts one).
    """
    os.setsid()  # a terminal's group of processes, which Ctrl-C reaches
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runs = "teacher", "start", "token_fkl-1"
    tasks = [task for task in toy_study(folder, seeds=1, quick=True) if task.name.endswith(runs)]
    fork = multiprocessing.get_context("fork")
    with mock.patch.object(multiprocessing, "get_context", return_value=fork):
        run_study(folder, tasks, workers)


class Process:
    """A study in a process of its own, and the workers that it starts."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.log = folder.with_suffix(".log")
        self.process = one_process(run_mini_study, folder, workers, log=self.log)

    def wait_until(self, there: Callable[[], object]) -> None:
        until = time.monotonic() + 300
        while not there():
            assert self.process.exitcode is None, self.log.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)

    def stop(self, send: Callable[[int, int], None], number: int) -> None:
        """Send a signal and see that nobody works on."""
        workers = psutil.Process(self.process.pid).children(recursive=True)
        assert workers
        send(self.process.pid, number)
        self.process.join(60)
        assert self.process.exitcode not in (None, 0)
        assert psutil.wait_procs(workers, timeout=20)[1] == []


@pytest.mark.slow
def test_a_study_that_is_stopped_goes_on_where_it_was(tmp_path):
    folder = tmp_path / "study"

    def done() -> dict[str, bytes]:
        records = {path.stem: path.read_bytes() for path in folder.glob("tasks/*.json")}
        return {name: text for name, text in records.items() if json.loads(text)["seconds"]}

    study = Process(folder, workers=2)
    study.wait_until((folder / "logs/train-teacher.log").exists)
    study.stop(os.killpg, signal.SIGINT)  # as Ctrl-C does: everyone hears it
    assert done() == {}

    study = Process(folder, workers=1)
    study.wait_until(lambda: "train-teacher" in done() and "train-start" in done())
    study.stop(os.kill, signal.SIGKILL)
    finished = done()
    weights = {
        name: (folder / name / "model.safetensors").read_bytes() for name in ("teacher", "start")
    }
    assert len(finished) < len(DONE)

    study = Process(folder, workers=1)
    study.process.join(300)
    assert study.process.exitcode == 0, study.log.read_text()
    assert sorted(done()) == DONE
    took = json.loads((folder / "took.json").read_text())
    assert took["commands"] == len(DONE) - len(finished)  # those of this time only
    assert took["wall_seconds"] > 0
    assert 0.1 < took["largest_process_gib"] < 4  # torch alone takes more than the first
    assert done() | finished == done()  # no record was written anew
    for name, before in weights.items():
        assert (folder / name / "model.safetensors").read_bytes() == before
    for name in ("teacher", "start", "token_fkl-1"):
        assert json.loads((folder / name / "evaluation.json").read_text())["metrics"]


@pytest.mark.slow
def test_a_run_that_fails_is_named_with_its_log(tmp_path):
    words = ("train", "--model_name_or_path", "runs/none", "--output_dir", str(tmp_path / "x"))
    task = Task("train x", words, tmp_path / "x" / "complete")
    with pytest.raises(ChildProcessError, match=r"train x: .*runs/none.*logs/train-x\.log"):
        run_study(tmp_path, [task], workers=1)
    assert "runs/none" in (tmp_path / "logs/train-x.log").read_text()
    assert Schedule(tmp_path, [task]).waiting == [task]
