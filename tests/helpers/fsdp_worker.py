"""FSDP2 on CPUs: two steps of bfloat16, and a saved model, for test_fsdp.py.

accelerate makes FSDP of two processes with GPUs and DDP of two without; here it is made FSDP of the
latter too. All else, the state dict's default kind included, is accelerate's.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.token_distil import TokenDistilTrainer
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

SETTINGS = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "Qwen2DecoderLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def use_fsdp_on_cpus() -> None:
    begin = AcceleratorState.__init__

    def begin_with_fsdp(self: AcceleratorState, *args: Any, **settings: Any) -> None:
        begin(self, *args, **settings)
        plugin = settings.get("fsdp_plugin")
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = self.distributed_type
            if self.mixed_precision != "no":
                plugin.set_mixed_precision(self.mixed_precision)
            self.fsdp_plugin = plugin

    AcceleratorState.__init__ = begin_with_fsdp


def train_and_save(out: Path, folder: Path) -> None:
    """Writes what was trained, beside ``out``, and what was logged; the model to ``folder``."""
    os.environ.update(SETTINGS)
    use_fsdp_on_cpus()
    config = DistilConfig(
        output_dir=str(folder), per_device_train_batch_size=4, max_steps=2, logging_steps=1,
        bf16=True, use_cpu=True, disable_tqdm=True, save_strategy="no", learning_rate=1e-3,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer = TokenDistilTrainer(
        toy_model(32, 1, seed=1), toy_model(64, 2, seed=2), config,
        train_dataset=toy_rows(8), processing_class=TOKENIZER,
    )  # fmt: skip
    trainer.train()
    kind = str(trainer.accelerator.state.fsdp_plugin.state_dict_type)
    trainer.save_model(str(folder))
    weights = {
        name: weight.detach().full_tensor() if isinstance(weight, DTensor) else weight.detach()
        for name, weight in trainer.model.named_parameters()
    }
    if dist.get_rank() == 0:
        torch.save(weights, out.with_suffix(".pt"))
        found = {
            "distributed_type": trainer.accelerator.distributed_type.value,
            "state_dict_type": kind,
            "is_sharded": any(isinstance(w, DTensor) for w in trainer.model.parameters()),
            "steps": [entry for entry in trainer.state.log_history if "grad_norm" in entry],
        }
        out.write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
