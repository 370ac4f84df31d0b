"""Processes of their own that do not import torch and TRL anew, ten seconds each.

A server imports them once and is forked for each process; it is clean of what tests do.
"""

import functools
import multiprocessing
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed.run as torchrun
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.utils import imports
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from kd_lab.cli import main

# At each step accelerate asks whether DeepSpeed is there, and parses its metadata: 1.3 ms.
imports._is_package_available = functools.cache(imports._is_package_available)
SERVER = multiprocessing.get_context("forkserver")
# Where a GPU is, DeepSpeed asks it what it is, and CUDA once asked bears no fork.
SERVER.set_forkserver_preload(
    [
        "kd_lab.train", "kd_lab.demo", "kd_lab.evaluation.evaluate", "kd_lab.rollout.questions",
        "kd_lab.teacher.cache", "kd_lab.planning.plan", "kd_lab.data.prepare", "kd_lab.doctor",
        "kd_lab.check.check", "kd_lab.report.report", "peft", "scipy.stats",
        "rouge_score.rouge_scorer", "ipykernel.kernelapp", "matplotlib.pyplot", __name__,
        *([] if torch.cuda.is_available() else ["tests.helpers.deepspeed_uncompiled"]),
        "tests.helpers.first_calls",
    ]
)  # fmt: skip


def as_process(function: Callable, *arguments: object) -> ForkServerProcess:
    """Calls a function in a process, which ends with it; nobody waits for it."""
    process = SERVER.Process(
        target=_with_threads, args=(torch.get_num_threads(), function, *arguments)
    )
    process.start()
    return process


def one_process(function: Callable, *arguments: object, log: Path) -> ForkServerProcess:
    """Calls a function in a process, whose exit code is what it returns; nobody waits for it.

    Args:
        log: gets what it prints.
    """
    return as_process(_logged, log, function, *arguments)


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
        start_method=SERVER.get_start_method(),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        logs_specs=DefaultLogsSpecs(str(logs), redirects=Std.ALL),
    )
    elastic_launch(config, _with_threads)(torch.get_num_threads(), function, *arguments)
    (first,) = logs.rglob("0/stdout.log")
    return first.read_text()


def accelerate_launch(config_file: Path, words: list[str], *, folder: Path, logs: Path) -> None:
    """``accelerate launch --config_file FILE --num_processes 2 -m kd_lab WORDS``, forked.

    accelerate reads the file, sets the environment and calls torchrun, as ever; torchrun forks two
    processes in place of two commands.

    Args:
        folder: in which the processes run.
        logs: a folder; gets what they print.
    Raises:
        ChildFailedError: a process failed.
    """
    config_of = torchrun.config_from_args

    def config_and_function(args: Namespace) -> tuple[LaunchConfig, Callable, list[Any]]:
        config, _, _ = config_of(args)
        config.start_method = SERVER.get_start_method()
        config.logs_specs = DefaultLogsSpecs(str(logs), redirects=Std.ALL)
        environment = dict(os.environ)  # which accelerate has just set
        return config, _with_threads, [
            torch.get_num_threads(), _kd_lab, folder, environment, words
        ]  # fmt: skip

    with mock.patch.object(torchrun, "config_from_args", config_and_function):
        launcher = ["--config_file", str(config_file), "--num_processes", "2", "-m", "kd_lab"]
        launch_command(launch_command_parser().parse_args([*launcher, *words]))


def _kd_lab(folder: Path, environment: dict[str, str], words: list[str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    if code := main(words):
        raise RuntimeError(f"exit code {code}")


def _logged(log: Path, function: Callable, *arguments: object) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(function(*arguments))


def _with_threads(threads: int, function: Callable, *arguments: object) -> object:
    """With as many threads as the tests have: their number decides the last bits."""
    torch.set_num_threads(threads)
    return function(*arguments)
