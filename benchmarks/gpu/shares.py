"""Where the loss's time goes: the share of matrix products in what the profiler saw."""

from collections.abc import Iterator

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.contenders import Inputs, ours
from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.problem import sizes

TOKENS, TOKENS_ON_CPU = 4096, 32
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_")
DIVERGENCES = ("forward_kl", "jensen_shannon", "adaptive_kl")
LEAST = 0.65  # computed for an H100: 0.86 for forward KL and JSD, 0.66 for adaptive KL
# Bytes do not tell how long its crossing is searched for: on an H200 the share is 0.45.
LEAST_OF_ADAPTIVE = 0.35


def measure(machine: Machine) -> Iterator[Figure]:
    of = sizes(machine)
    tokens = TOKENS if machine.is_gpu else TOKENS_ON_CPU
    widths = of.student_width, of.teacher_width
    data = Inputs(tokens, of.vocabulary, torch.bfloat16, machine.device, widths)
    for name in DIVERGENCES:
        ours(data, name)  # compiles
        data.clear()
        products, every = _seconds(machine, lambda name=name: ours(data, name))
        data.clear()
        least = LEAST_OF_ADAPTIVE if name == "adaptive_kl" else LEAST
        expected = {"low": least} if machine.is_gpu else {}
        yield Figure(f"{name}: products' share of the time", products / every, **expected)
        yield Figure(f"{name}: time of all kernels", every / tokens * 1e6, "us a token")


def _seconds(machine: Machine, run) -> tuple[float, float]:
    """Of the matrix products, and of everything, on the device."""
    activities = [ProfilerActivity.CPU]
    if machine.is_gpu:
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with profile(activities=activities) as seen:
        run()
        if machine.is_gpu:
            torch.cuda.synchronize()
    rows = seen.key_averages()
    if not machine.is_gpu:
        of = {row.key: row.self_cpu_time_total for row in rows}
        return sum(of.get(key, 0) for key in PRODUCTS) / 1e6, sum(of.values()) / 1e6
    # An operator's own device time is that of the kernels that it launches. Triton's have none.
    products = sum(
        row.self_device_time_total for row in rows
        if row.key in PRODUCTS and row.device_type == DeviceType.CPU
    )  # fmt: skip
    every = sum(
        row.self_device_time_total for row in rows if row.device_type == DeviceType.CUDA
    )  # fmt: skip
    return products / 1e6, every / 1e6
