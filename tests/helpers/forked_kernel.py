"""Notebooks' kernels that do not import torch and TRL anew, seven seconds each.

They are forked from the server of forked_processes. A kernel's folder, environment and variables
are those of any other; only what it imports is already in memory.
"""

import os
import signal
import sys
from importlib.metadata import EntryPoint
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

NAME = "forked"


def start_kernels_by_fork() -> None:
    """All kernels that this process starts are forked, where a kernel's kind names no other way."""
    factory = KernelProvisionerFactory.instance()
    factory.provisioners[NAME] = EntryPoint(NAME, f"{__name__}:ForkedKernel", factory.GROUP_NAME)
    factory.default_provisioner_name = NAME


class ForkedKernel(LocalProvisioner):
    """Forks a kernel where its base class runs a command."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> dict[str, Any]:
        from tests.helpers import forked_processes  # imports torch, which few tests need

        process = forked_processes.as_process(_kernel, cmd, str(kwargs["cwd"]), kwargs["env"])
        self.process, self.pid, self.cwd = _LikePopen(process), process.pid, kwargs["cwd"]
        return self.connection_info


class _LikePopen:
    """A forked process with the methods of a Popen that a LocalProvisioner calls."""

    stdin = stdout = stderr = None

    def __init__(self, process: ForkServerProcess) -> None:
        self.process = process

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)


def _kernel(command: list[str], folder: str, environment: dict[str, str]) -> None:
    from ipykernel.kernelapp import launch_new_instance
    from matplotlib import rcParams

    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    os.chdir(folder)
    os.environ.update(environment)
    rcParams["backend"] = "module://matplotlib_inline.backend_inline"  # as a kernel tells it
    (file,) = (word for word in command if Path(word).suffix == ".json")
    sys.argv = [command[0]]
    launch_new_instance(argv=["-f", file])
