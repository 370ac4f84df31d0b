"""Answers whose step of one token is compiled: the plain step's answers, and its time."""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.models import STUDENT, qwen
from benchmarks.gpu.writing import CASES, TOKENS, answers_and_seconds, case_name
from tests.helpers.qwen_vocabulary import qwen_tokenizer
from tests.helpers.toy_pair import toy_model

ROWS, FEW = 64, 8
ALIKE = 7 / 8  # of float32's answers: two logits that are equal to six digits can change places
MOST = 0.5  # of the plain step's time; on an H200 it was 0.24 to 0.47


def measure(machine: Machine) -> Iterator[Figure]:
    if not machine.is_gpu:
        yield _answers(machine, toy_model(64, 1, seed=2), 4)
        return
    counters.clear()
    yield _answers(machine, qwen(machine, STUDENT, torch.float32, qwen_tokenizer()), FEW)
    for size, dtype, is_autocast in CASES:
        torch.cuda.empty_cache()
        model = qwen(machine, size, dtype, qwen_tokenizer())
        with torch.autocast("cuda", torch.bfloat16) if is_autocast else nullcontext():
            seconds = {}
            for compiled in (False, True):
                answers_and_seconds(machine, model, ROWS, compiled)  # warms up, and compiles
                _, seconds[compiled] = answers_and_seconds(machine, model, ROWS, compiled)
        name = f"{case_name(size, dtype, is_autocast)}, {ROWS} rows"
        each = seconds[True] / TOKENS / model.config.num_hidden_layers * 1000
        yield Figure(name, each, "ms a layer and token")
        yield Figure(f"{name}: speed", ROWS * TOKENS / seconds[True], "tokens a second")
        over = seconds[True] / seconds[False]
        yield Figure(f"{name}: over the plain step", over, "times", high=MOST)
        del model
    yield Figure("CUDA graphs not taken", counters["inductor"]["cudagraph_skips"], high=0)


def _answers(machine: Machine, model: PreTrainedModel, rows: int) -> Figure:
    plain, compiled = (answers_and_seconds(machine, model, rows, c)[0] for c in (False, True))
    alike = sum(a == b for a, b in zip(plain, compiled, strict=True)) / rows
    return Figure("answers alike, float32", alike, "share", low=ALIKE)
