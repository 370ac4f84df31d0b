"""How often a micro-batch waits for the GPU: torch's warnings there, operations on a CPU."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.policy_gradient_distil import PolicyGradientDistilTrainer
from kd_lab.trainers.seq_distil import SeqDistilTrainer
from kd_lab.trainers.token_distil import TokenDistilTrainer
from tests.helpers.host_reads import HostReads
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

MOST = 6
POLICY_GRADIENT: dict[str, Any] = {
    "prefixes": "student", "divergence": "reverse_kl", "alpha": 1.0, "policy_gradient": True,
    "max_new_tokens": 8,
}  # fmt: skip
CASES: dict[str, tuple[type[TokenDistilTrainer], dict[str, Any]]] = {
    "forward_kl": (TokenDistilTrainer, {"divergence": "forward_kl"}),
    "adaptive_kl": (TokenDistilTrainer, {"divergence": "adaptive_kl"}),
    "policy gradient": (PolicyGradientDistilTrainer, POLICY_GRADIENT),
}
ON_GPU_ALONE = ("adaptive_kl",)  # the plain passes of a CPU search in steps that the host counts


def measure(machine: Machine) -> Iterator[Figure]:
    for case, (trainer_class, settings) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            config = DistilConfig(
                output_dir=folder, use_cpu=not machine.is_gpu, disable_tqdm=True, bf16=False,
                **settings,
            )  # fmt: skip
            trainer = trainer_class(
                toy_model(32, 1, seed=1), toy_model(64, 2, seed=2), config,
                train_dataset=toy_rows(8), processing_class=TOKENIZER,
            )  # fmt: skip
            step = _micro_batch(trainer)
            step(1)  # the first one is also that of the checks
            step(2)  # compiles what the first has not
            reads = _operations(step)
            label = f"{case}: operations that bring a number to the host"
            is_bound = machine.is_gpu or case not in ON_GPU_ALONE
            yield Figure(label, reads, high=MOST if is_bound else None)
            label = f"{case}: waits that torch warns of"
            yield Figure(label, _warned(step) if machine.is_gpu else None, high=MOST)


def _micro_batch(trainer: TokenDistilTrainer) -> Callable[[int], None]:
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    if isinstance(trainer, SeqDistilTrainer):
        [batch] = trainer.write_batches([batch])
    batch = trainer._prepare_inputs(batch)
    num_items = (batch["labels"] != -100).sum()

    def step(number: int) -> None:
        trainer._micro_batch = number
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=num_items).backward()

    return step


def _operations(step: Callable[[int], None]) -> int:
    with HostReads() as seen:
        step(3)
    return len(seen.names)


def _warned(step: Callable[[int], None]) -> int:
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step(4)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in seen)
