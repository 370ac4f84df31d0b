"""Words that one model lacks: rows of a head that no token has, and logits of minus infinity.

Two models of one tokenizer may have heads of unequal sizes, since a head is padded for speed. And a
logit of minus infinity takes a word away. A loss can leave such words out, refuse them, become NaN,
or give them a probability that no token should have.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lab.check.batches import Finding, PaddedBatch, a_batch, value_and_gradient
from kd_lab.check.forms import Loss

PADDING = 4  # rows that one head has more than the other
RARE = -3.0  # their logits: such rows are trained towards nothing
MASKED = 2  # words that are taken away
FAR = (40.0, 80.0)  # nats: where a logit falls without end, its limit is reached here
SAME = 1e-6  # relative


def missing_words(loss: Loss, seed: int = 0) -> list[Finding]:
    """What a loss of logits does where the models' words are not the same."""
    if loss.samples:
        return []
    batch = a_batch(seed)
    findings = [*_masked(loss, batch)]
    if loss.form == "logits":
        findings += _padded_heads(loss, batch)
    return findings


def _padded_heads(loss: Loss, batch: PaddedBatch) -> Iterator[Finding]:
    """The teacher's head has more rows; then the student's."""
    shared = batch.student.shape[-1]
    refusals = []
    for whose in ("teacher", "student"):
        student = _wider(batch.student, PADDING * (whose == "student"), RARE)
        teacher = _wider(batch.teacher, PADDING * (whose == "teacher"), RARE)
        try:
            found = _gradient(loss, batch, student, teacher)[..., :shared]
        except (RuntimeError, ValueError, TypeError, IndexError):
            refusals.append(whose)
            continue
        rows = f"where the {whose}'s head has rows that the other has not"
        with_zeros, with_others = (
            _gradient(
                loss,
                batch,
                *(_wider(x, shared + PADDING - x.shape[-1], value) for x in (student, teacher)),
            )[..., :shared]
            for value in (0.0, RARE)
        )
        if _same(found, _gradient(loss, batch, student[..., :shared], teacher[..., :shared])):
            yield Finding("padded rows", f"{rows}, they are left out")
        elif _same(with_zeros, with_others):
            continue  # the other model has no part in it
        elif _same(found, with_zeros):
            words = "the other model gets them with a logit of 0, and so with a probability"
            yield Finding("padded rows", f"{rows}, {words}", True)
        else:
            yield Finding("padded rows", f"{rows}, it does what is not known here")
    if refusals:
        heads = " or the ".join(f"{whose}'s" for whose in refusals)
        yield Finding("padded rows", f"it fails where the {heads} head has more rows")


def _masked(loss: Loss, batch: PaddedBatch) -> Iterator[Finding]:
    """Two words go, whose logits fall without end: first far, then to minus infinity itself."""
    taken = batch.teacher.shape[-1] - MASKED
    batch = batch.without(taken)

    def at(depth: float, models: tuple[str, ...]) -> tuple[float, Tensor]:
        def fallen(logits: Tensor, name: str) -> Tensor:
            if name not in models:
                return logits
            low = torch.full_like(logits, -depth)
            return torch.where(torch.arange(logits.shape[-1]) >= taken, low, logits)

        student, teacher = fallen(batch.student, "student"), fallen(batch.teacher, "teacher")
        return value_and_gradient(loss, replace(batch, student=student, teacher=teacher))

    not_finite, other = [], []
    for models in (("teacher",), ("student",), ("teacher", "student")):
        (value, far), (limit, further) = (at(depth, models) for depth in FAR)
        if abs(value - limit) > SAME * max(1, abs(limit)) or not _same(far, further):
            continue  # there is no limit: the divergence is infinite
        reached, there = at(math.inf, models)
        words = "both models" if len(models) > 1 else f"the {models[0]}"
        if not (math.isfinite(reached) and there.isfinite().all()):
            not_finite.append(words)
        elif not _same(there, further):
            other.append(words)
    if not_finite:
        where = ", in ".join(not_finite)
        yield Finding("masked words", f"words masked by a logit of -inf in {where} give NaN")
    if other:
        where = ", in ".join(other)
        words = f"words masked by a logit of -inf in {where} are not left out"
        yield Finding("masked words", words, True)


def _gradient(loss: Loss, batch: PaddedBatch, student: Tensor, teacher: Tensor) -> Tensor:
    return value_and_gradient(loss, replace(batch, student=student, teacher=teacher))[1]


def _wider(logits: Tensor, more: int, value: float) -> Tensor:
    return F.pad(logits, (0, more), value=value)


def _same(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() <= SAME * b.norm().clamp(min=1e-12))
