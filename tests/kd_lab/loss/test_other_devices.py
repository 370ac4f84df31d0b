"""Devices that are neither a CPU nor CUDA: Apple's MPS has no float64, and none wants blocks.

The meta device stands for them: shapes and dtypes are computed, numbers are not.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kd_lab.divergences import DIVERGENCES, get_divergence
from kd_lab.loss.tiles import Objective, StoredDistribution, Weights, tile_loss

POSITIONS, VOCABULARY = 40, 2**17  # a CPU would take eight positions at a time


class NoFloat64(TorchDispatchMode):
    """Fails where an operation gives float64; counts the softmaxes, each of which has one amin."""

    def __init__(self) -> None:
        super().__init__()
        self.softmaxes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                assert tensor.dtype != torch.float64, func
        self.softmaxes += func.overloadpacket is torch.ops.aten.amin
        return out


# How many heads of adaptive KL are long is a number, which a meta tensor does not have.
@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "adaptive_kl"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("is_stored", [False, True], ids=["live", "stored"])
def test_a_tile_is_taken_whole_and_without_float64(name, temperature, is_stored):
    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    teacher = empty(POSITIONS, VOCABULARY)
    if is_stored:
        tokens = empty(POSITIONS, 16, dtype=torch.int64)
        teacher = StoredDistribution(empty(POSITIONS, 16), tokens, empty(POSITIONS))
    objective = Objective(get_divergence(name), Weights(0.5, empty(POSITIONS)), temperature)
    targets = empty(POSITIONS, dtype=torch.int64)
    with NoFloat64() as seen:
        found = tile_loss(empty(POSITIONS, VOCABULARY), teacher, targets, objective)
    assert found.divergence.shape == found.cross_entropy.shape == (POSITIONS,)
    assert seen.softmaxes == (1 if temperature == 1 else 2) + (not is_stored)
