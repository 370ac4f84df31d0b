"""The loss's time and memory on the true shapes: ours, its floor, and those of Liger and TRL.

Every divergence against Liger's compiled JSD, its Triton kernels and TRL's, at 8,192 tokens; whole
logits at 2,048. ``benchmarks/traffic.py`` has computed these times for an H100 and an A100: the
ranges stand around its numbers, which assets/results/traffic.json holds.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import contenders
from benchmarks.contenders import Inputs
from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine, Range
from benchmarks.gpu.problem import sizes
from kd_lab.divergences import DIVERGENCES, forward_kl

TRAFFIC = Path(__file__).parents[2] / "assets" / "results" / "traffic.json"
TOKENS, TOKENS_WHOLE = 8192, 2048
TOKENS_ON_CPU, TOKENS_WHOLE_ON_CPU = 32, 16
REPEATS, REPEATS_ON_CPU = 10, 1
LIGER_CHUNK = 1024  # its default
AROUND = 0.3  # of a computed time
OF_FLOOR, OF_PEER = 1.6, 0.95  # computed: 1.32 and 0.80 on an H100, 1.15 and 0.86 on an A100


def measure(machine: Machine) -> Iterator[Figure]:
    seconds: dict[str, float] = {}
    for whole in (False, True):
        tokens = _tokens(machine, whole)
        of = sizes(machine)
        data = Inputs(
            tokens, of.vocabulary, torch.bfloat16, machine.device,
            (of.student_width, of.teacher_width),
        )  # fmt: skip
        for name, run in (_on_whole_logits if whole else _fused)(data, machine).items():
            label = f"{name}, {tokens:,} tokens"
            if run is None:
                yield Figure(f"{label}: time", None)
                continue

            def once(run: Callable[[Inputs], object] = run, data: Inputs = data) -> None:
                data.clear()
                run(data)

            seconds[name] = machine.seconds(once, REPEATS if machine.is_gpu else REPEATS_ON_CPU)
            expected = machine.expected(_computed(name))
            yield Figure(f"{label}: time", seconds[name] / tokens * 1e6, "us a token", **expected)
            data.clear()
            peak = machine.peak_bytes(once)
            above = None if peak is None else (peak - data.gradient_bytes) / 2**30
            yield Figure(f"{label}: peak above inputs and gradients", above, "GiB")
        data.clear()
        del data
    yield from _ratios(machine, seconds)


Runs = dict[str, Callable[[Inputs], object] | None]


def _tokens(machine: Machine, whole: bool) -> int:
    if machine.is_gpu:
        return TOKENS_WHOLE if whole else TOKENS
    return TOKENS_WHOLE_ON_CPU if whole else TOKENS_ON_CPU


def _fused(data: Inputs, machine: Machine) -> Runs:
    runs: Runs = {"floor": lambda data: contenders.floor(data, len(data.labels))}
    for name in DIVERGENCES:
        runs[f"ours, {name}"] = lambda data, name=name: contenders.ours(data, name)
    runs["liger"] = lambda data: contenders.liger(data, min(LIGER_CHUNK, len(data.labels)))
    # Both are Triton alone; the first takes the whole teacher's probabilities.
    runs["liger_kl_div"] = contenders.liger_kl_div if machine.is_gpu else None
    runs["liger_jsd"] = contenders.liger_jsd if machine.is_gpu else None
    runs["trl_kernel"] = contenders.trl_kernel
    return runs


def _on_whole_logits(data: Inputs, machine: Machine) -> Runs:
    return {"trl_gkd": contenders.trl_gkd, "dense": contenders.dense}


def _computed(name: str) -> dict[str, Range]:
    """A range around what the counted bytes say, by card."""
    names = {
        "floor": "floor", "liger": "liger", "trl_kernel": "trl",
        f"ours, {forward_kl.__name__}": "ours",
    }  # fmt: skip
    if name not in names:
        return {}
    kept = json.loads(TRAFFIC.read_text())
    return {
        card.upper(): ((1 - AROUND) * us, (1 + AROUND) * us)
        for card in ("h100", "a100")
        for us in [kept[f"{card}_us_per_token"][names[name]]]
    }


def _ratios(machine: Machine, seconds: dict[str, float]) -> Iterator[Figure]:
    ours = seconds[f"ours, {forward_kl.__name__}"]
    of_floor: dict[str, Range] = {"H100": (None, OF_FLOOR), "A100": (None, OF_FLOOR)}
    of_peer: dict[str, Range] = {"H100": (None, OF_PEER), "A100": (None, OF_PEER)}
    label = "ours, forward_kl, over the floor"
    yield Figure(label, ours / seconds["floor"], "x", **machine.expected(of_floor))
    # Those with a cross-entropy part, or without a whole [tokens, vocabulary].
    best = min(seconds[name] for name in ("liger", "trl_kernel"))
    label = "ours, forward_kl, over the better of Liger and TRL"
    yield Figure(label, ours / best, "x", **machine.expected(of_peer))
