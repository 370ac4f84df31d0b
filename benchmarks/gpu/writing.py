"""Answers through transformers: the time of a layer at one token, as ``kd-lab plan`` counts it."""

import time
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from transformers import PreTrainedModel

from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.models import STUDENT, TEACHER, qwen
from kd_lab.rollout.sampling import Completion, Sampling
from kd_lab.rollout.transformers_engine import write_answers
from tests.helpers.qwen_vocabulary import qwen_tokenizer
from tests.helpers.toy_pair import toy_model

ROWS, ROWS_ON_CPU = (8, 64), (4,)
TOKENS, TOKENS_ON_CPU = 64, 8  # of an answer
PROMPT = 100  # tokens
MOST = 1.5  # ms a layer and token; kd-lab plan takes 1. Python launches each step: a host sets it
CASES = (
    (STUDENT, torch.float32, True),
    (STUDENT, torch.bfloat16, False),
    (TEACHER, torch.bfloat16, False),
)


def measure(machine: Machine) -> Iterator[Figure]:
    for size, dtype, is_autocast in CASES:
        model = _model(machine, size, dtype)
        name = case_name(size, dtype, is_autocast)
        for count in ROWS if machine.is_gpu else ROWS_ON_CPU:
            with torch.autocast(machine.device, torch.bfloat16) if is_autocast else nullcontext():
                answers_and_seconds(machine, model, count)  # warms up
                _, seconds = answers_and_seconds(machine, model, count)
            tokens = TOKENS if machine.is_gpu else TOKENS_ON_CPU
            layers = model.config.num_hidden_layers
            each = seconds / tokens / layers * 1000
            high = MOST if machine.is_gpu else None
            yield Figure(f"{name}, {count} rows", each, "ms a layer and token", high=high)
            yield Figure(
                f"{name}, {count} rows: speed", count * tokens / seconds, "tokens a second"
            )
        del model
        if machine.is_gpu:
            torch.cuda.empty_cache()


def case_name(size: str, dtype: torch.dtype, is_autocast: bool) -> str:
    """A case in words, as a figure's name has it."""
    return f"{size}, {str(dtype).removeprefix('torch.')}{' under autocast' * is_autocast}"


def _model(machine: Machine, size: str, dtype: torch.dtype) -> PreTrainedModel:
    if machine.is_gpu:
        return qwen(machine, size, dtype, qwen_tokenizer())
    return toy_model(64, 2, seed=2).to(dtype)


def answers_and_seconds(
    machine: Machine, model: PreTrainedModel, count: int, compiled: bool = False
) -> tuple[list[Completion], float]:
    """Greedy answers that no end token ends, and the time they took."""
    prompts = [[1 + (row + place) % 500 for place in range(PROMPT)] for row in range(count)]
    sampling = Sampling(TOKENS if machine.is_gpu else TOKENS_ON_CPU, temperature=0.0)
    if machine.is_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    answers = write_answers(
        model, prompts, sampling, eos_token_ids=[], seed=0, batch_size=count, compiled=compiled
    )
    if machine.is_gpu:
        torch.cuda.synchronize()
    return answers, time.perf_counter() - start
