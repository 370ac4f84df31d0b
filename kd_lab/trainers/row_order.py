"""The order of an epoch: batches of like lengths, the same at every start."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler


class LengthGroupedByEpoch(LengthGroupedSampler):
    """Transformers' sampler with an order of its own for each epoch, the same at every start.

    Seeds are not independent: the second epoch of seed 0 has the order of seed 1's first. Separate
    streams would change the teacher and the start of all stored results, which train over several
    epochs. Weights, sampled answers and dropout have the seed's own randomness.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


class TellEpoch(TrainerCallback):
    """Tells the trainer's sampler its epoch, which accelerate's wrappers do not always pass on."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if hasattr(self.trainer, "_sampler"):
            self.trainer._sampler.epoch = int(state.epoch)
