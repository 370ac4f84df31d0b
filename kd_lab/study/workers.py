"""A study: many ``kd-lab`` commands, some after others, run by long-lived workers.

    teacher = Task("train teacher", ("train", "--config", "tiny/teacher", ...), result=...)
    score = Task("evaluate teacher", ("evaluate", ...), result=..., after=("train teacher",))
    run_study(folder, [teacher, score])

A worker is a process of one thread. It imports torch and transformers once and then runs command
after command. Their output goes to FOLDER/logs/TASK.log; one line on the terminal shows the running
tasks and the time left.

Ctrl-C, a failure or kill -9 may stop a study; started again, it goes on where it was. Finished
tasks do not run again. An interrupted command runs again, from its last whole checkpoint or shard.
(A short training run writes no checkpoint and starts anew.)
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
from kd_lab.machine import cores
from kd_lab.machine.peak_memory import largest_child_peak
from kd_lab.study.schedule import Schedule, Task

LOOK_EVERY = 0.5  # seconds
TOOK = "took.json"


def run_study(folder: str | Path, tasks: Sequence[Task], workers: int | None = None) -> None:
    """Run the tasks that are not done, each after those it needs; then write TOOK: time and memory.

    Args:
        folder: of the study; the commands themselves decide where their results go.
        tasks: each after those it needs.
        workers: commands that run at the same time. Default: one a core.
    Raises:
        ValueError: the folder holds results of other settings, or another study is running in it.
        ChildProcessError: a command failed, or its process was killed; names its log.
        KeyboardInterrupt: Ctrl-C; by then the workers have ended.
    """
    schedule = Schedule(Path(folder), tasks)
    workers = workers or cores()
    with only_one_at_work(schedule.folder):
        schedule.look()
        if schedule.waiting:
            done_before, started = len(schedule.seconds), time.perf_counter()
            _work_off(schedule, workers)
            peak = largest_child_peak()
            took = {
                "commands": len(schedule.tasks) - done_before,
                "workers": workers,
                "wall_seconds": round(time.perf_counter() - started, 1),
                "largest_process_gib": peak and round(peak / 2**30, 2),
            }
            (schedule.folder / TOOK).write_text(json.dumps(took, indent=1) + "\n", encoding="utf-8")


def _work_off(schedule: Schedule, workers: int) -> None:
    spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that threads may hold
    running: dict[Future[tuple[str, float]], tuple[Task, float]] = {}
    with (
        _progress_line(schedule, workers) as tell,
        ProcessPoolExecutor(workers, spawn, initializer=_prepare_worker) as pool,
    ):
        try:
            while schedule.waiting:
                begun = [task.name for task, _ in running.values()]
                while len(running) < workers and (task := schedule.next(begun)) is not None:
                    schedule.note(task, None)
                    future = pool.submit(_run_command, task.words, schedule.log(task))
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
                            f"{task.name}: {failure} (its whole output: {schedule.log(task)})"
                        )
                    del running[future]
                    schedule.note(task, round(seconds, 1))
        except BaseException as stopped:
            for process in multiprocessing.active_children():  # in the middle of a command
                process.terminate()
            if not isinstance(stopped, BrokenProcessPool):
                raise
            logs = " or ".join(str(schedule.log(task)) for task, _ in running.values())
            raise ChildProcessError(
                f"a worker was killed, perhaps because memory ran out; see the end of {logs}"
            ) from stopped


@contextmanager
def _progress_line(
    schedule: Schedule, workers: int
) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """A line that is rewritten on a terminal; elsewhere a new one for each finished task."""
    console = Console(stderr=True)
    columns = BarColumn(16), MofNCompleteColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(schedule.tasks))
        reported = -1

        def tell(running: Mapping[str, float]) -> None:
            nonlocal reported
            done, left = len(schedule.seconds), schedule.seconds_left(running, workers)
            line = f"{', '.join(running)} · {_minutes(left)} left"
            progress.update(bar, completed=done, description=line)
            if not console.is_terminal and done > reported:
                print(f"{done} of {len(schedule.tasks)} done · {line}", file=sys.stderr, flush=True)
            reported = done

        yield tell
        progress.update(bar, completed=len(schedule.seconds), description="")


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

    # A killed parent sends no signal; its workers would go on in its successor's folder.
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"  # before anything that reads it is imported
    import torch

    torch.set_num_threads(1)


def _run_command(words: Sequence[str], log: Path) -> tuple[str, float]:
    """Run ``kd-lab WORDS`` in this process; returns why it failed ("" if it did not), and seconds.

    All output goes to the log, whoever prints it.
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
