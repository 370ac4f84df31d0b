"""Answers whose step of one token is compiled: the plain step's answers, and its time."""

from collections.abc import Iterator

import torch
from torch._dynamo.utils import counters

from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.models import STUDENT, qwen
from benchmarks.gpu.writing import answers_and_seconds
from tests.helpers.qwen_vocabulary import qwen_tokenizer
from tests.helpers.toy_pair import toy_model

ROWS, FEW = 64, 8
ALIKE = 7 / 8  # of float32's answers: two logits that are equal to six digits can change places


def measure(machine: Machine) -> Iterator[Figure]:
    if not machine.is_gpu:
        model = toy_model(64, 1, seed=2)
        (plain, _), (compiled, _) = (
            answers_and_seconds(machine, model, 4, c) for c in (False, True)
        )
        yield Figure("answers alike, float32", _alike(plain, compiled), "share", low=ALIKE)
        return
    for dtype, rows in (torch.float32, FEW), (torch.bfloat16, ROWS):
        model = qwen(machine, STUDENT, dtype, qwen_tokenizer())
        counters.clear()
        answers, seconds = {}, {}
        for compiled in (False, True):
            answers_and_seconds(machine, model, rows, compiled)  # warms up, and compiles
            answers[compiled], seconds[compiled] = answers_and_seconds(
                machine, model, rows, compiled
            )
        if dtype == torch.float32:
            alike = _alike(answers[False], answers[True])
            yield Figure("answers alike, float32", alike, "share", low=ALIKE)
        else:
            name = f"{STUDENT}, bfloat16, {rows} rows"
            each = seconds[True] / seconds[False]
            yield Figure(f"{name}: over the plain step", each, "times", high=1.0)
        skipped = counters["inductor"]["cudagraph_skips"]
        yield Figure(f"CUDA graphs not taken, {rows} rows", skipped, "graphs", high=0)
        del model
        torch.cuda.empty_cache()


def _alike(plain: list, compiled: list) -> float:
    return sum(a == b for a, b in zip(plain, compiled, strict=True)) / len(plain)
