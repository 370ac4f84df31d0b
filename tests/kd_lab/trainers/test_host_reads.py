"""How often a micro-batch waits for a GPU: the operations that bring a number to the host, counted.

They are the same on a CPU, where nothing is waited for.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.token_distil import TokenDistilTrainer
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")
MOST = 6


class HostReads(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(part, torch.Tensor) and part.dtype == torch.bool
            for part in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if name.startswith(READS) or by_mask:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("divergence", ["forward_kl", "jensen_shannon"])
def test_a_micro_batch_waits_for_a_gpu_six_times_at_most(divergence, tmp_path):
    config = DistilConfig(
        output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, divergence=divergence
    )
    trainer = TokenDistilTrainer(
        toy_model(32, 1, seed=1), toy_model(64, 2, seed=2), config,
        train_dataset=toy_rows(8), processing_class=TOKENIZER,
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    num_items = (batch["labels"] != -100).sum()
    trainer.model.train()
    # The first micro-batch of a run is also that of the checks.
    trainer.compute_loss(trainer.model, batch, num_items_in_batch=num_items).backward()
    with HostReads() as seen:
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=num_items)
        loss.backward()
    assert 1 <= len(seen.names) <= MOST, seen.names
