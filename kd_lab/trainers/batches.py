"""A batch: what it holds beside the model's inputs, and which of its rows count."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from kd_lab.vocabulary import IGNORED

if TYPE_CHECKING:
    from accelerate import Accelerator

ROW_COLUMNS = ("prompt_length", "cache_row")  # what a row has besides input_ids and labels
NOT_FOR_THE_MODEL = ("labels", "by_student", "row_lengths", "is_repeated", *ROW_COLUMNS)


def collate_rows(collate: Callable, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """TRL's batch of rows, the rows' lengths, and the columns of ours besides."""
    batch = collate([{k: v for k, v in row.items() if k not in ROW_COLUMNS} for row in rows])
    batch["row_lengths"] = torch.tensor([len(row["input_ids"]) for row in rows])
    for name in ROW_COLUMNS:
        if name in rows[0]:
            batch[name] = torch.tensor([row[name] for row in rows])
    return batch


def real_rows(count: int, accelerator: "Accelerator") -> int:
    """How many of this process's last batch of ``count`` rows are no repetition.

    accelerate fills the last batches of an epoch with rows from its beginning, so that no process
    waits for another. Batches are dealt in turn: the last of each process stand side by side.
    With ``dataloader_drop_last`` it leaves out what is left, and repeats nothing.
    """
    state = accelerator.gradient_state
    processes = accelerator.num_processes
    if processes == 1 or not accelerator.even_batches or not state.end_of_dataloader:
        return count
    loader = state.active_dataloader
    if loader.batch_sampler.drop_last:
        return count
    left = len(loader.dataset) % (count * processes)
    if left == 0:
        return count
    return min(max(left - accelerator.process_index * count, 0), count)


def count_each_row_once(batch: dict[str, Any], accelerator: "Accelerator") -> None:
    """Take the rows that only fill a last batch out of the loss and the tokens, in place."""
    real = real_rows(len(batch["row_lengths"]), accelerator)
    if real == len(batch["row_lengths"]):
        return
    lengths, labels = batch["row_lengths"], batch["labels"].clone()
    if len(labels) == len(lengths):
        labels[real:] = IGNORED
    else:  # joined to one row by padding_free
        labels[:, int(lengths[:real].sum()) :] = IGNORED
    batch["labels"] = labels
    batch["is_repeated"] = torch.arange(len(lengths)) >= real
