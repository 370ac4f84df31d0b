"""The loss's time and memory on the true shapes: ours, its floor, and those of Liger and TRL.

Every divergence against Liger's compiled JSD, its Triton kernels and TRL's, at 8,192 tokens; whole
logits at 2,048. A peer's time is the better of two: over the 151,665 words that the tokenizer has,
and over the 151,936 rows that both heads have, whose products are faster.
``benchmarks/traffic.py`` has computed these times for an H100 and an A100: the ranges stand around
its numbers, which assets/results/traffic.json holds.
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
OURS, PEERS = f"ours, {forward_kl.__name__}", ("liger", "trl_kernel")
CARDS = ("H100", "H200", "A100")
OF_FLOOR, OF_PEER = 1.6, 0.95  # computed: 1.20 and 0.73 on an H100, 1.09 and 0.81 on an A100


Runs = dict[str, Callable[[Inputs], object] | None]


def measure(machine: Machine) -> Iterator[Figure]:
    fused, whole = (
        (TOKENS, TOKENS_WHOLE) if machine.is_gpu else (TOKENS_ON_CPU, TOKENS_WHOLE_ON_CPU)
    )
    seconds: dict[str, float] = {}
    of = sizes(machine)
    yield from _timed(machine, fused, _compared(), seconds, of.vocabulary)
    peers = {name: run for name, run in _compared().items() if name in (*PEERS, OURS)}
    on_all_rows: dict[str, float] = {}
    yield from _timed(machine, fused, peers, on_all_rows, of.student_rows)
    yield from _ratios(machine, seconds, on_all_rows)
    # Ours first: what another's loss stops with costs no number of ours.
    yield from _timed(machine, fused, _other_kernels(machine), seconds, of.student_rows)
    on_whole_logits: Runs = {"trl_gkd": contenders.trl_gkd, "dense": contenders.dense}
    yield from _timed(machine, whole, on_whole_logits, seconds, of.student_rows)


def _compared() -> Runs:
    runs: Runs = {"floor": lambda data: contenders.floor(data, len(data.labels))}
    for name in DIVERGENCES:
        runs[f"ours, {name}"] = lambda data, name=name: contenders.ours(data, name)
    runs["trl_kernel"] = contenders.trl_kernel
    runs["liger"] = lambda data: contenders.liger(data, min(LIGER_CHUNK, len(data.labels)))
    return runs


def _other_kernels(machine: Machine) -> Runs:
    """Those that are Triton alone."""
    runs = {"liger_kl_div": contenders.liger_kl_div, "liger_jsd": contenders.liger_jsd}
    return {name: run if machine.is_gpu else None for name, run in runs.items()}


def _timed(
    machine: Machine, tokens: int, runs: Runs, seconds: dict[str, float], words: int
) -> Iterator[Figure]:
    """Time and peak of each over so many words; the times also into ``seconds``."""
    of = sizes(machine)
    widths = of.student_width, of.teacher_width
    data = Inputs(tokens, words, torch.bfloat16, machine.device, widths)
    for name, run in runs.items():
        label = f"{name}, {tokens:,} tokens, {words:,} words"
        if run is None:
            yield Figure(f"{label}: time", None)
            continue

        def once(run: Callable[[Inputs], object] = run) -> None:
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


def _computed(name: str) -> dict[str, Range]:
    """A range around what the counted bytes say, by card."""
    names = {
        "floor": "floor", "liger": "liger", "trl_kernel": "trl",
        OURS: "ours",
    }  # fmt: skip
    if name not in names:
        return {}
    kept = json.loads(TRAFFIC.read_text())
    return {
        card.upper(): ((1 - AROUND) * us, (1 + AROUND) * us)
        for card in ("h100", "a100")
        for us in [kept[f"{card}_us_per_token"][names[name]]]
    }


def _ratios(
    machine: Machine, seconds: dict[str, float], on_all_rows: dict[str, float]
) -> Iterator[Figure]:
    ours = seconds[OURS]
    of_floor: dict[str, Range] = dict.fromkeys(CARDS, (None, OF_FLOOR))
    of_peer: dict[str, Range] = dict.fromkeys(CARDS, (None, OF_PEER))
    label = "ours, forward_kl, over the floor"
    yield Figure(label, ours / seconds["floor"], "x", **machine.expected(of_floor))
    best = min(found[name] for name in PEERS for found in (seconds, on_all_rows))
    label = "ours, forward_kl, over the better of Liger and TRL"
    yield Figure(label, ours / best, "x", **machine.expected(of_peer))
