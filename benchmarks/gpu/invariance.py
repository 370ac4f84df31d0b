"""The loss does not depend on how its positions are cut, ordered, padded or counted."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.problem import QWEN, SMALL, Problem, relative_error
from kd_lab.loss import CHUNK_SIZE, fused_linear_distillation_loss
from kd_lab.vocabulary import IGNORED

TOKENS, TOKENS_ON_CPU = 1100, 40
CHUNKS, CHUNKS_ON_CPU = (1, 17, 512, 2048), (1, 7, 64)
WIDTHS = {"student_width": 256, "teacher_width": 512}  # the vocabulary is the true one
# Of a gradient's norm, float32: a product of another size is summed in another order.
SAME, SAME_ON_CPU = 3e-5, 2e-6
DIVERGENCE = "jensen_shannon"


def measure(machine: Machine) -> Iterator[Figure]:
    tokens = TOKENS if machine.is_gpu else TOKENS_ON_CPU
    sized = QWEN._replace(**WIDTHS) if machine.is_gpu else SMALL
    problem = Problem.of(machine, tokens, 0.4, sized=sized)
    every = _gradients(problem)
    for chunk in CHUNKS if machine.is_gpu else CHUNKS_ON_CPU:
        # One token at a time is a hundred steps a second: a few are enough.
        few = _some(problem, slice(40)) if chunk == 1 else problem
        expected = _gradients(few) if chunk == 1 else every
        found = _gradients(few, chunk_size=chunk)
        yield _same(machine, f"{chunk} tokens at a time", found, expected)
    order = torch.randperm(tokens, device=machine.device)
    on_hidden, on_head = _gradients(_some(problem, order))
    yield _same(machine, "in another order", (on_hidden, on_head), (every[0][order], every[1]))

    padded = replace(problem, labels=problem.labels.clone())
    padded.labels[::3] = IGNORED
    trained = padded.labels != IGNORED
    on_hidden, on_head = _gradients(padded)
    alone = _gradients(_some(problem, trained))
    yield _same(machine, "without the untrained rows", (on_hidden[trained], on_head), alone)
    most = on_hidden[~trained].abs().max().item()
    yield Figure("gradient of an untrained row, largest", most, low=0, high=0)

    half = tokens // 2
    parts = [
        _gradients(_some(problem, some), num_items=tokens)
        for some in (slice(half), slice(half, tokens))
    ]
    joined = torch.cat([part[0] for part in parts]), parts[0][1] + parts[1][1]
    yield _same(machine, "two micro-batches", joined, every)

    nothing = replace(problem, labels=torch.full_like(problem.labels, IGNORED))
    most = max(part.abs().max().item() for part in _gradients(nothing))
    yield Figure("gradient without a trained token, largest", most, low=0, high=0)
    again = _gradients(problem)
    differing = sum(int((a != b).sum()) for a, b in zip(again, every, strict=True))
    yield Figure("entries that differ when it is computed twice", differing, low=0, high=0)
    yield Figure("position that a NaN is named by", _named_position(problem), low=5, high=5)


def _gradients(
    problem: Problem, chunk_size: int = CHUNK_SIZE, num_items: int | None = None
) -> tuple[Tensor, Tensor]:
    """To hidden states [N, H] and head [V, H], float32."""
    given = problem.with_gradients()
    found = fused_linear_distillation_loss(
        given.student_hidden, given.student_head, given.teacher_hidden, given.teacher_head,
        given.labels, divergence=DIVERGENCE, vocab_size=given.vocabulary, chunk_size=chunk_size,
        num_items=num_items,
    )  # fmt: skip
    found.loss.backward()
    assert given.student_hidden.grad is not None
    assert given.student_head.grad is not None
    return given.student_hidden.grad, given.student_head.grad


def _some(problem: Problem, which: slice | Tensor) -> Problem:
    return replace(
        problem,
        student_hidden=problem.student_hidden[which],
        teacher_hidden=problem.teacher_hidden[which],
        labels=problem.labels[which],
    )


def _same(
    machine: Machine, how: str, found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]
) -> Figure:
    error = max(relative_error(a, b) for a, b in zip(found, expected, strict=True))
    most = SAME if machine.is_gpu else SAME_ON_CPU
    return Figure(f"gradient, {how}", error, "of its norm", high=most)


def _named_position(problem: Problem) -> float:
    """The trained position in the message; NaN if nothing was refused."""
    broken = replace(problem, student_hidden=problem.student_hidden.clone())
    broken.student_hidden[5] = math.nan
    try:
        _gradients(broken)
    except FloatingPointError as error:
        found = re.search(r"trained position (\d+)", str(error))
        return float(found[1]) if found else math.nan
    return math.nan
