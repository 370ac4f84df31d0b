"""The NVIDIA GPUs of this machine and their driver, without torch; and why torch sees none of them.

    gpus = nvidia_gpus()                      # as nvidia-smi lists them
    why = why_unused(gpus, torch_build())     # empty where torch can use them

``kd-lab doctor`` prints both.
"""

import importlib.util
import runpy
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# The oldest driver branch for the CUDA release that torch was built with: the minor versions of a
# major one share theirs (CUDA Compatibility, "minor version compatibility").
DRIVER_BRANCHES = {11: 450, 12: 525, 13: 580}
QUERY = ("name", "memory.total", "driver_version")


class Gpu(NamedTuple):
    """One GPU, as its driver describes it."""

    name: str
    memory_gb: float  # 10^9 bytes
    driver: str  # "580.65.06"; its branch is 580


class TorchBuild(NamedTuple):
    """The installed build of torch."""

    version: str  # "2.13.0+cpu"
    cuda: str | None  # "13.0", the CUDA release it was built with


def nvidia_gpus() -> list[Gpu]:
    """The GPUs that nvidia-smi lists; none where there is no nvidia-smi.

    Raises:
        OSError: nvidia-smi exists and failed; with its own message.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    words = [command, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired as error:
        raise OSError("nvidia-smi did not answer in 10 seconds: the driver hangs") from error
    said = (done.stdout + done.stderr).strip()
    if "No devices were found" in said:
        return []
    if done.returncode:
        raise OSError(f"nvidia-smi failed: {' '.join(said.split())}")
    return [_gpu(line) for line in done.stdout.splitlines() if line.strip()]


def _gpu(line: str) -> Gpu:
    name, mebibytes, driver = (cell.strip() for cell in line.rsplit(",", 2))
    # A GPU that shares the machine's memory (GB10, Jetson) answers [N/A].
    return Gpu(name, float(mebibytes) * 2**20 / 1e9 if mebibytes.isdigit() else 0.0, driver)


def torch_build() -> TorchBuild | None:
    """The build in torch's own file (importing torch takes seconds); None without torch."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    said = runpy.run_path(str(Path(found.origin).with_name("version.py")))
    return TorchBuild(str(said["__version__"]), said.get("cuda"))


def why_unused(gpus: Sequence[Gpu], torch: TorchBuild | None) -> str:
    """Why torch cannot use the GPUs of this machine, and the remedy; empty if it can.

    Args:
        gpus: from ``nvidia_gpus``.
        torch: from ``torch_build``.
    """
    if not gpus:
        return "there is no NVIDIA GPU"
    if torch is None:
        return "torch is not installed: make figures"
    if torch.cuda is None:
        release = torch.version.partition("+")[0]
        return (
            f"torch {torch.version} is a CPU build, which does not use the GPU: "
            f"pip install --force-reinstall torch=={release}"
        )
    needed, driver = DRIVER_BRANCHES.get(int(torch.cuda.partition(".")[0]), 0), gpus[0].driver
    branch = driver.partition(".")[0]
    if branch.isdigit() and int(branch) < needed:
        return (
            f"the driver {driver} is too old: torch's CUDA {torch.cuda} build needs driver branch "
            f"{needed} or newer; update the driver"
        )
    return ""
