"""A study: many ``kd-lab`` commands, of which some need others, run by workers that stay.

    teacher = Task("train teacher", ("train", "--config", "tiny/teacher", ...), result=...)
    score = Task("evaluate teacher", ("evaluate", ...), result=..., after=("train teacher",))
    run_study(folder, [teacher, score])

A worker is a process of one thread that imports torch and transformers once and then runs command
after command. What they print goes to FOLDER/logs/TASK.log; the terminal has one line that says
what is running and how long it will take.

Stopped by Ctrl-C, a failure or kill -9, a study goes on where it was when it is started again: what
is done is not done again, and a command that was cut off runs again, and goes on with its last
whole checkpoint or shard where it writes any. (A short training run writes none and starts anew.)
"""

import gc
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from kd_lab.files import only_one_at_work
from kd_lab.machine.peak_memory import largest_child_peak
from kd_lab.study.schedule import Study, Task

LOOK_EVERY = 0.5  # seconds
TOOK = "took.json"


def run_study(folder: str | Path, tasks: Sequence[Task], workers: int | None = None) -> None:
    """Do what is not done yet, each task after those it needs; TOOK then says what that took.

    Args:
        folder: of the study; the commands themselves decide where their results go.
        tasks: each after those it needs.
        workers: commands that run at the same time. Default: one a core.
    Raises:
        ValueError: the folder holds what was made with other settings, or another study is at work
            in it.
        ChildProcessError: a command failed, or its process was killed; names its log.
        KeyboardInterrupt: Ctrl-C; the workers are gone by then.
    """
    study = Study(Path(folder), tasks)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with only_one_at_work(study.folder):
        study.look()
        if study.waiting:
            done_before, started = len(study.seconds), time.perf_counter()
            _work_off(study, workers or cores or 1)
            peak = largest_child_peak()
            took = {
                "commands": len(study.tasks) - done_before,
                "workers": workers or cores or 1,
                "wall_seconds": round(time.perf_counter() - started, 1),
                "largest_process_gib": peak and round(peak / 2**30, 2),
            }
            (study.folder / TOOK).write_text(json.dumps(took, indent=1) + "\n", encoding="utf-8")


def _work_off(study: Study, workers: int) -> None:
    spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that threads may hold
    running: dict[Future[tuple[str, float]], tuple[Task, float]] = {}
    with (
        _progress_line(study, workers) as tell,
        ProcessPoolExecutor(workers, spawn, initializer=_prepare_worker) as pool,
    ):
        try:
            while study.waiting:
                begun = [task.name for task, _ in running.values()]
                while len(running) < workers and (task := study.next(begun)) is not None:
                    study.note(task, None)
                    future = pool.submit(_run_command, task.words, study.log(task))
                    running[future] = task, time.perf_counter()
                    begun.append(task.name)
                tell({task.name: time.perf_counter() - since for task, since in running.values()})
                finished, _ = wait(running, LOOK_EVERY, FIRST_COMPLETED)
                for future in finished:
                    task, _ = running[future]
                    failure, seconds = future.result()
                    if failure or not task.result.exists():
                        failure = failure or f"it has not written {task.result}"
                        raise ChildProcessError(
                            f"{task.name}: {failure} (all that it said: {study.log(task)})"
                        )
                    del running[future]
                    study.note(task, round(seconds, 1))
        except BaseException as stopped:
            for process in multiprocessing.active_children():  # in the middle of a command
                process.terminate()
            if not isinstance(stopped, BrokenProcessPool):
                raise
            logs = " or ".join(str(study.log(task)) for task, _ in running.values())
            raise ChildProcessError(
                f"a worker was killed, perhaps for want of memory; see the end of {logs}"
            ) from stopped


@contextmanager
def _progress_line(study: Study, workers: int) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """A line that is rewritten on a terminal; elsewhere a new one for each task that is done."""
    console = Console(stderr=True)
    columns = BarColumn(16), MofNCompleteColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(study.tasks))
        told = -1

        def tell(running: Mapping[str, float]) -> None:
            nonlocal told
            done, left = len(study.seconds), study.seconds_left(running, workers)
            line = f"{', '.join(running)} · {_minutes(left)} left"
            progress.update(bar, completed=done, description=line)
            if not console.is_terminal and done > told:
                print(f"{done} of {len(study.tasks)} done · {line}", file=sys.stderr, flush=True)
            told = done

        yield tell
        progress.update(bar, completed=len(study.seconds), description="")


def _minutes(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02}"


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends its workers

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    # A killed parent says no goodbye, and its workers would work on in the folder of its successor.
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"  # before anything that reads it is imported
    import torch

    torch.set_num_threads(1)


def _run_command(words: Sequence[str], log: Path) -> tuple[str, float]:
    """Run ``kd-lab WORDS`` in this process; returns why it failed ("" if it did not), and seconds.

    Everything that is printed goes to the log, whatever prints it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    print("kd-lab", *words, flush=True)
    from kd_lab import cli, train  # noqa: F401  # seconds, once, which are no task's own

    gc.freeze()  # or each collection would walk through all that was imported
    before, started = log.stat().st_size, time.perf_counter()
    try:
        failed = cli.main(words) != 0
    except BaseException:  # whatever it is, the study names it
        traceback.print_exc()
        failed = True
    gc.collect()  # a trainer and its model know each other
    seconds = time.perf_counter() - started
    sys.stdout.flush()
    sys.stderr.flush()
    if not failed:
        return "", seconds
    said = log.read_bytes()[before:].decode("utf-8", "replace").strip().splitlines()
    return said[-1].removeprefix("kd-lab: error: ") if said else "it failed silently", seconds
