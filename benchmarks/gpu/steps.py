"""Whole steps: tokens a second and the share of the card's peak, TRL's trainer beside ours.

The teacher's head is cut to the student's rows, since TRL's trainer refuses two vocabularies. Both
compare all of these rows.
"""

import gc
import statistics
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu import step
from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine, Range
from benchmarks.gpu.models import TRAINED_SHARE, Pair, pair, rows

LENGTH, LENGTH_ON_CPU = 2048, 32
ROWS, STEPS, STEPS_ON_CPU = 4, 5, 2
PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}  # TFLOP/s, bfloat16, on paper
LEAST_MFU, LEAST_WITH_FEW_ROWS = 0.3, 0.25  # kd-lab plan counts with 0.4
CASES: dict[str, dict[str, Any]] = {
    "token_fkl": {"divergence": "forward_kl", "alpha": 1.0},
    "token_jsd": {"divergence": "jensen_shannon", "alpha": 1.0},
    "token_akl": {"divergence": "adaptive_kl", "alpha": 1.0},
    "sft": {"alpha": 0.0},
}
SAME_LOSS, SAME_LOSS_ON_CPU = 1e-2, 1e-4
OF_TRL: Range = (None, 1.0)


def measure(machine: Machine) -> Iterator[Figure]:
    models = pair(machine, equal_rows=True)
    models = models._replace(vocab_size=models.student.config.vocab_size)
    length = LENGTH if machine.is_gpu else LENGTH_ON_CPU
    steps = STEPS if machine.is_gpu else STEPS_ON_CPU
    data = rows(models, ROWS * steps, length)  # may hold tokens that the tokenizer has not
    found: dict[str, step.Timed] = {}
    for name, settings in CASES.items():
        found[name] = step.ours(machine, models, data, ROWS, checkpointing=True, **settings)
        yield from _speed(machine, models, name, found[name], ROWS * length, length, True)
        _forget(machine)
    theirs = step.theirs(machine, models, data, ROWS, checkpointing=True)
    yield from _speed(machine, models, "TRL, forward KL", theirs, ROWS * length, length, True)
    _forget(machine)
    fkl = found["token_fkl"]
    most = SAME_LOSS if machine.is_gpu else SAME_LOSS_ON_CPU
    gap = abs(fkl.loss / theirs.loss - 1)
    yield Figure("loss of forward KL, ours against TRL's", gap, "relative", high=most)
    ratio = statistics.median(fkl.seconds) / statistics.median(theirs.seconds)
    ranges = dict.fromkeys(PEAKS, OF_TRL)
    yield Figure("time of forward KL, ours over TRL's", ratio, "x", **machine.expected(ranges))
    # Without checkpoints half the rows: 80 GB do not hold the activations of all.
    few = ROWS // 2
    plain = step.ours(
        machine, models, data.select(range(few * steps)), few, checkpointing=False,
        **CASES["token_fkl"],
    )  # fmt: skip
    name = "token_fkl, no checkpointing"
    yield from _speed(machine, models, name, plain, few * length, length, False)


def _speed(
    machine: Machine, models: Pair, name: str, found: step.Timed, tokens: int, length: int,
    checkpointing: bool,
) -> Iterator[Figure]:  # fmt: skip
    seconds = statistics.median(found.seconds)
    yield Figure(f"{name}: speed", tokens / seconds, "tokens a second")
    student, teacher = models.shapes
    trained = TRAINED_SHARE * tokens
    flops = 3 * student.forward_flops(tokens, length, trained)
    if name != "sft":
        flops += teacher.forward_flops(tokens, length, trained)
    if checkpointing:
        flops += student.again_flops(tokens, length)
    for card, peak in PEAKS.items():
        if machine.is_gpu and card in machine.name:
            share = flops / seconds / 1e12 / peak
            least = LEAST_MFU if checkpointing else LEAST_WITH_FEW_ROWS
            low = None if name.startswith("TRL") else least
            yield Figure(f"{name}: share of the peak, recomputation included", share, low=low)


def _forget(machine: Machine) -> None:
    """The optimizer's state, which the next trainer makes anew."""
    gc.collect()
    if machine.is_gpu:
        torch.cuda.empty_cache()
