"""One tile of logits three ways: Triton's kernels, the plain passes, and those compiled."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.problem import relative_error
from kd_lab.divergences import DIVERGENCES, adaptive_kl, get_divergence
from kd_lab.loss import by_device, tiles
from kd_lab.loss.chunks import ALIGNMENT
from kd_lab.loss.closed_forms import closed_form
from kd_lab.loss.tiles import Objective, TileLoss, Weights

ROWS, VOCABULARY = 64, 151_665
ROWS_ON_CPU, VOCABULARY_ON_CPU = 8, 997
SCALE = 5.0  # logits reach 20
SAME, ALIKE = 2e-6, 5e-6  # a GPU's exponentials are approximate


def measure(machine: Machine) -> Iterator[Figure]:
    student, teacher, targets = _tile(machine)
    for name in DIVERGENCES:
        divergence = get_divergence(name)
        objective = Objective(divergence, Weights(0.5, 0.5), 2.0, float(len(student)))
        plain = _copy(student)
        values = tiles.tile_loss(plain, _copy(teacher), targets, objective)
        exact = student.double()
        wanted = tiles.tile_loss(exact, teacher.double(), targets, objective)
        label = f"{name}: plain passes against float64"
        yield from _compared(label, plain, values, exact, wanted, SAME)
        label = f"{name}: kernels against the plain passes"
        if not machine.is_gpu:
            yield Figure(label, None)
            continue
        if by_device.has_kernels(student, teacher, divergence):
            found = _copy(student)
            by_kernels = by_device.tile_loss(
                found, _copy(teacher), targets, objective, True, torch.float32
            )
            yield from _compared(label, found, by_kernels, plain, values, ALIKE)
        # The crossing of adaptive KL is searched in steps whose number the host reads.
        if closed_form(divergence) is not None and name != adaptive_kl.__name__:
            found = _copy(student)
            compiled = tiles.tile_loss(found, _copy(teacher), targets, objective, is_compiled=True)
            label = f"{name}: compiled against the plain passes"
            yield from _compared(label, found, compiled, plain, values, ALIKE)


def _tile(machine: Machine) -> tuple[Tensor, Tensor, Tensor]:
    """Both models' logits, their rows padded as the loss pads them, and the next tokens."""
    rows = ROWS if machine.is_gpu else ROWS_ON_CPU
    vocabulary = VOCABULARY if machine.is_gpu else VOCABULARY_ON_CPU
    generator = torch.Generator(machine.device).manual_seed(0)
    pair = [_padded(rows, vocabulary, machine.device) for _ in range(2)]
    for tile in pair:
        tile.normal_(generator=generator).mul_(SCALE)
    targets = torch.randint(0, vocabulary, (rows,), generator=generator, device=machine.device)
    return *pair, targets


def _padded(rows: int, vocabulary: int, device: torch.device | str) -> Tensor:
    width = -(-vocabulary // ALIGNMENT) * ALIGNMENT
    return torch.zeros(rows, width, device=device)[:, :vocabulary]


def _copy(tile: Tensor) -> Tensor:
    """Likewise padded, which ``clone`` is not."""
    return _padded(*tile.shape, tile.device).copy_(tile)


def _compared(
    label: str,
    gradient: Tensor,
    values: TileLoss,
    expected: Tensor,
    wanted: TileLoss,
    most: float,
) -> Iterator[Figure]:
    error = relative_error(gradient, expected)
    yield Figure(f"{label}, gradient", error, "of its norm", high=most)
    error = relative_error(values.divergence, wanted.divergence)
    yield Figure(f"{label}, value", error, "relative", high=most)
