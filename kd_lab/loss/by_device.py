"""Which code computes a tile's loss: the kernels of a GPU, torch's compiler, or the plain passes.

    a GPU with Triton, and float32 logits
        no teacher, a stored one, or a divergence with terms in kernels.py    gpu_tiles.py
        a divergence with a closed form alone                                 tiles.py, compiled
    everything else                                                           tiles.py

A new divergence has neither, and runs everywhere.
"""

import functools
import importlib.util

import torch
from torch import Tensor

from kd_lab.divergences import Divergence
from kd_lab.loss import tiles
from kd_lab.loss.closed_forms import closed_form
from kd_lab.loss.tiles import Objective, StoredDistribution, TileLoss

KERNEL_DEVICES = ("cuda",)  # and "cpu" in tests, where Triton interprets
# Kernels need no scratch, so that two chunks at once take less memory than one does without them.
# The sum of the head's gradient is read and written once each time: small chunks wait for memory.
KERNEL_CHUNKS = 2


def tile_loss(
    student: Tensor,
    teacher: Tensor | StoredDistribution | None,
    targets: Tensor,
    objective: Objective,
    want_gradient: bool,
    operands: torch.dtype,
) -> TileLoss:
    """The loss of a tile, and in its memory the gradient, which ``gradient_of`` finds.

    Args:
        student: logits, [C, V]; what lies between the rows may be overwritten.
        operands: the dtype of the products that take the gradient.
        others: as in ``tiles.tile_loss``.
    """
    if has_kernels(student, teacher, objective.divergence):
        from kd_lab.loss import gpu_tiles

        gradient = gradient_of(student, teacher, objective.divergence, operands)
        return gpu_tiles.tile_loss(
            student, teacher, targets, objective, gradient if want_gradient else None
        )
    is_compiled = (
        _runs_kernels(student.device, student.dtype)
        and closed_form(objective.divergence) is not None
    )
    return tiles.tile_loss(student, teacher, targets, objective, want_gradient, is_compiled)


def gradient_of(
    tile: Tensor,
    teacher: Tensor | StoredDistribution | None,
    divergence: Divergence,
    operands: torch.dtype,
) -> Tensor:
    """Where the gradient of a tile is: in its own numbers, or in the first half of each row."""
    if operands == tile.dtype or not has_kernels(tile, teacher, divergence):
        return tile
    return tile.view(operands)[:, : tile.shape[-1]]


def has_kernels(
    tile: Tensor, teacher: Tensor | StoredDistribution | None, divergence: Divergence
) -> bool:
    """Whether kernels compute the loss; k + 1 buckets are few, whatever compares them."""
    if not _runs_kernels(tile.device, tile.dtype):
        return False
    if not isinstance(teacher, Tensor):
        return True
    from kd_lab.loss.gpu_tiles import terms_of

    return terms_of(divergence) is not None


def tokens_at_a_time(chunk_size: int, device: torch.device, dtype: torch.dtype) -> int:
    """How many tokens are projected at a time, with logits of ``dtype``."""
    return chunk_size * (KERNEL_CHUNKS if _runs_kernels(device, dtype) else 1)


def scale(gradient: Tensor, factor: Tensor) -> None:
    """``gradient`` times a number, in place; nearly always it is 1, and nothing is to be done.

    A CPU looks. A GPU would be waited for, so that there a kernel looks.
    """
    if factor.device.type == "cpu" and factor.numpy() == 1:
        return
    is_plain = gradient.is_contiguous() and gradient.dtype != torch.float64
    if is_plain and factor.device.type in KERNEL_DEVICES and _has_triton():
        from kd_lab.loss.gpu_tiles import scale_by

        scale_by(gradient, factor)
    else:
        gradient.mul_(factor)


def _runs_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    if device.type not in KERNEL_DEVICES or dtype != torch.float32:
        return False
    return _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
