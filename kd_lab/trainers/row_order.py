"""The order of an epoch: batches of like lengths, the same at every start; and each row once."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from kd_lab.vocabulary import IGNORED

if TYPE_CHECKING:
    from accelerate import Accelerator


class LengthGroupedByEpoch(LengthGroupedSampler):
    """Transformers' sampler with an order of its own for each epoch, the same at every start."""

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


def real_rows(count: int, accelerator: "Accelerator") -> int:
    """How many of this process's last batch of ``count`` rows are no repetition.

    accelerate fills the last batches of an epoch with rows from its beginning, so that no process
    waits for another. Batches are dealt in turn: the last of each process stand side by side.
    """
    loader = accelerator.gradient_state
    processes = accelerator.num_processes
    if processes == 1 or not accelerator.even_batches or not loader.end_of_dataloader:
        return count
    left = len(loader.active_dataloader.dataset) % (count * processes)
    if left == 0:
        return count
    return min(max(left - accelerator.process_index * count, 0), count)


def leave_out_repeated(batch: dict[str, Any], real: int) -> None:
    """Take the rows from number ``real`` on out of the loss and the count of tokens, in place."""
    lengths, labels = batch["row_lengths"], batch["labels"].clone()
    if len(labels) == len(lengths):
        labels[real:] = IGNORED
    else:  # joined to one row by padding_free
        labels[:, int(lengths[:real].sum()) :] = IGNORED
    batch["labels"] = labels
    batch["is_repeated"] = torch.arange(len(lengths)) >= real
