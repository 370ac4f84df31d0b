"""Training under FSDP2 whose answers vLLM writes, one engine in each of two processes.

    python -m torch.distributed.run --nproc_per_node 2 -m tests.helpers.vllm_fsdp_worker FOLDER

Writes FOLDER/losses.json. For tests/kd_lab/trainers/vllm_training_check.py.
"""

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist
from torch.distributed.tensor import DTensor

from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.seq_distil import SeqDistilTrainer
from tests.helpers.fsdp_worker import SETTINGS, use_fsdp_on_cpus
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows


def settings(folder: Path) -> dict:
    """Of both runs; four rows in each of two processes are eight in one."""
    return {
        "output_dir": str(folder), "max_steps": 3, "use_cpu": True, "save_strategy": "no",
        "disable_tqdm": True, "max_new_tokens": 12, "prefixes": "student", "alpha": 1.0,
        "divergence": "reverse_kl", "logging_steps": 1, "learning_rate": 3e-3,
        "sampling_temperature": 0.0, "report_to": [], "train_sampling_strategy": "sequential",
    }  # fmt: skip


def losses(config: DistilConfig) -> list[float]:
    """Of each step."""
    trainer = SeqDistilTrainer(
        toy_model(64, 2, seed=1), toy_model(64, 2, seed=2), config, train_dataset=toy_rows(16),
        processing_class=TOKENIZER,
    )  # fmt: skip
    trainer.train()
    is_sharded = any(isinstance(weight, DTensor) for weight in trainer.model.parameters())
    assert is_sharded == (trainer.accelerator.num_processes > 1)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    os.environ.update(SETTINGS)
    use_fsdp_on_cpus()
    folder = Path(sys.argv[1])
    config = DistilConfig(**settings(folder), per_device_train_batch_size=4, rollout_engine="vllm")
    found = losses(config)
    if dist.get_rank() == 0:
        (folder / "losses.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
