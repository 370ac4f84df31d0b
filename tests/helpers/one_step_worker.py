"""One optimizer step of each trainer, in processes of their own: for test_invariance.py.

The same eight rows whatever they are split into; rank 0 writes each step's loss and gradient norm.
"""

import json
from pathlib import Path

import torch.distributed as dist

from kd_lab.rollout.sampling import Sampling
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.policy_gradient_distil import PolicyGradientDistilTrainer
from kd_lab.trainers.seq_distil import SeqDistilTrainer
from kd_lab.trainers.token_distil import TokenDistilTrainer
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

CASES = {
    "token": (TokenDistilTrainer, {"divergence": "reverse_kl"}),
    "on_policy": (SeqDistilTrainer, {"prefixes": "student"}),
    "policy_gradient": (
        PolicyGradientDistilTrainer,
        {"prefixes": "student", "policy_gradient": True, "divergence": "reverse_kl", "alpha": 1.0},
    ),
}


def one_step(case: str, folder: Path, batch: int, accumulate: int, stage: int) -> dict:
    trainer_class, settings = CASES[case]
    deepspeed = {
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }
    config = DistilConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        train_sampling_strategy="sequential",
        max_steps=1,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        deepspeed=deepspeed if stage else None,
        disable_tqdm=True,
        **settings,
    )
    trainer = trainer_class(
        toy_model(32, 1, seed=1),
        toy_model(64, 2, seed=2),
        config,
        train_dataset=toy_rows(8),
        processing_class=TOKENIZER,
    )
    if isinstance(trainer, SeqDistilTrainer):  # drawn, each process would have answers of its own
        trainer.sampling = Sampling(max_new_tokens=8, temperature=0.0)
    trainer.train()
    (step,) = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    step["num_processes"] = trainer.accelerator.num_processes
    step["distributed_type"] = trainer.accelerator.distributed_type.value
    for whose, model in (("student", trainer.model), ("teacher", trainer.teacher.model)):
        step[f"{whose}_is_sharded"] = model.get_output_embeddings().weight.numel() == 0
    return step


def write_steps(out: Path, batch: int, accumulate: int, stage: int) -> None:
    """Writes each trainer's step as JSON; without an error where gloo is done too early."""
    folder = out.with_suffix("")
    steps = {case: one_step(case, folder, batch, accumulate, stage) for case in CASES}
    if not dist.is_initialized() or dist.get_rank() == 0:
        out.write_text(json.dumps(steps))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
