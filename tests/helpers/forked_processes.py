"""Processes of their own that do not import torch and TRL anew, ten seconds each.

A server imports them once and is forked for each process; it is clean of what tests do.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest import mock

import torch
from accelerate.commands import launch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

SERVER = multiprocessing.get_context("forkserver")
# Where a GPU is, DeepSpeed asks it what it is, and CUDA once asked bears no fork.
SERVER.set_forkserver_preload(
    ["kd_lab.train", *([] if torch.cuda.is_available() else ["deepspeed"])]
)


def one_process(function: Callable, *arguments: object, log: Path) -> ForkServerProcess:
    """Calls a function in a process, whose exit code is what it returns; nobody waits for it.

    Args:
        log: gets what it prints.
    """
    work = (torch.get_num_threads(), log, function, *arguments)
    process = SERVER.Process(target=_logged, args=work)
    process.start()
    return process


def two_processes(function: Callable, *arguments: object, logs: Path) -> str:
    """Calls a function in two processes that know each other, as torchrun starts them.

    Args:
        logs: a folder; gets what both print.
    Returns:
        What the first one printed.
    Raises:
        ChildFailedError: a process failed.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id=logs.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
    )
    _forked(config, logs, _with_threads)(torch.get_num_threads(), function, *arguments)
    (first,) = logs.rglob("0/stdout.log")
    return first.read_text()


def accelerate_launch(words: list[str], main: Callable, logs: Path) -> None:
    """``accelerate launch WORDS``; what it would start as ``-m MODULE ...`` is main([...]), forked.

    Raises:
        ChildFailedError: a process failed.
    """
    module = words[words.index("-m") + 1]

    def forked(config: LaunchConfig, entrypoint: str) -> Callable:  # the latter is python
        def start(*command: str) -> None:
            given = list(command[command.index(module) + 1 :])
            _forked(config, logs, _in_environment)(dict(os.environ), main, given)

        return start

    with mock.patch("torch.distributed.run.elastic_launch", forked):
        launch.launch_command(launch.launch_command_parser().parse_args(words))


def _forked(config: LaunchConfig, logs: Path, function: Callable) -> elastic_launch:
    config.start_method = SERVER.get_start_method()
    config.logs_specs = DefaultLogsSpecs(str(logs), redirects=Std.ALL)
    return elastic_launch(config, function)


def _logged(threads: int, log: Path, function: Callable, *arguments: object) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(_with_threads(threads, function, *arguments))


def _with_threads(threads: int, function: Callable, *arguments: object) -> object:
    """With as many threads as the tests have: their number decides the last bits."""
    torch.set_num_threads(threads)
    return function(*arguments)


def _in_environment(environment: dict[str, str], function: Callable, *arguments: object) -> object:
    """In that of the launcher, which a process that it starts would have from it."""
    os.environ.update(environment)
    return function(*arguments)
