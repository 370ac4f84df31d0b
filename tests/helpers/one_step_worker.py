"""A step or two of each trainer, in processes of their own: for tests/hardening/splits.py.

The same rows whatever they are split into, and caches of the teacher for two cases. Rank 0 writes
each step's loss and gradient norm, and the figures of an evaluation.
"""

import gc
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch.distributed as dist
from peft import LoraConfig

from kd_lab.rollout.sampling import Sampling
from kd_lab.teacher.live import LiveTeacher
from kd_lab.teacher.stored import StoredTeacher
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.policy_gradient_distil import PolicyGradientDistilTrainer
from kd_lab.trainers.seq_distil import SeqDistilTrainer
from kd_lab.trainers.token_distil import TokenDistilTrainer
from kd_lab.vocabulary import IGNORED
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows


class Case(NamedTuple):
    """A trainer, its rows and settings."""

    trainer: type[TokenDistilTrainer] = TokenDistilTrainer
    rows: int = 8
    trained_rows: int = 1000  # all others have no trained token
    steps: int = 1
    lora: bool = False
    stored: str = ""  # the signal of a stored teacher
    settings: Mapping[str, Any] = MappingProxyType({})


ON_POLICY = {"prefixes": "student", "alpha": 1.0}
POLICY_GRADIENT = {
    "prefixes": "student", "policy_gradient": True, "divergence": "reverse_kl", "alpha": 1.0
}  # fmt: skip
CASES = {
    "token": Case(settings={"divergence": "reverse_kl"}),
    "on policy": Case(SeqDistilTrainer, settings=ON_POLICY),
    "policy gradient": Case(PolicyGradientDistilTrainer, settings=POLICY_GRADIENT),
    # Seven rows: the last batch of an epoch is not full, and one process has less than the other.
    "seven rows": Case(rows=7, steps=2),
    # Five rows: of two processes with four each, or of the second micro-batches, one has a row.
    "five rows on policy": Case(SeqDistilTrainer, 5, steps=2, settings=ON_POLICY),
    "one row with a policy gradient": Case(
        PolicyGradientDistilTrainer, 1, steps=2, settings=POLICY_GRADIENT
    ),
    # Seventeen rows: the last is left out, and all of the second step's are trained.
    "last rows dropped": Case(rows=17, steps=2, settings={"dataloader_drop_last": True}),
    "by length": Case(rows=70, steps=10, settings={"train_sampling_strategy": "group_by_length"}),
    "1,000 rows by length": Case(
        rows=1000, steps=2, settings={"train_sampling_strategy": "group_by_length"}
    ),
    "joined rows": Case(rows=7, settings={"padding_free": True}),
    "LoRA": Case(lora=True),
    "stored hidden states": Case(stored="hidden", rows=7),
    "stored top 16": Case(stored="topk", rows=7),
    "trained tokens in one process": Case(trained_rows=2),
}
EVALUATED = "seven rows"


def one_case(
    name: str, folder: Path, caches: Mapping[str, str], batch: int, accumulate: int, stage: int
) -> dict:
    case = CASES[name]
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
        per_device_eval_batch_size=batch,
        max_steps=case.steps,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        deepspeed=deepspeed if stage else None,
        disable_tqdm=True,
        **{"train_sampling_strategy": "sequential", **case.settings},
    )
    rows = toy_rows(case.rows)
    teacher: Any = toy_model(64, 2, seed=2)
    if case.stored:
        teacher = StoredTeacher(caches[case.stored])
        rows = teacher.rows().select(range(case.rows))
    labels = [
        labels if row < case.trained_rows else [IGNORED] * len(labels)
        for row, labels in enumerate(rows["labels"])
    ]
    trainer = case.trainer(
        toy_model(32, 1, seed=1),
        teacher,
        config,
        train_dataset=rows.remove_columns("labels").add_column("labels", labels),
        eval_dataset=toy_rows(11, seed=5),
        processing_class=TOKENIZER,
        peft_config=LoraConfig(r=4, lora_dropout=0.0, target_modules="all-linear")
        if case.lora
        else None,
    )
    if isinstance(trainer, SeqDistilTrainer):  # drawn, each process would have answers of its own
        trainer.sampling = Sampling(max_new_tokens=8, temperature=0.0)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    found: dict[str, Any] = {"steps": steps}
    found["num_processes"] = trainer.accelerator.num_processes
    found["distributed_type"] = trainer.accelerator.distributed_type.value
    models = {"student": trainer.model}
    if isinstance(trainer.teacher, LiveTeacher):
        models["teacher"] = trainer.teacher.model
    found["is_sharded"] = {
        whose: model.get_output_embeddings().weight.numel() == 0 for whose, model in models.items()
    }
    if name == EVALUATED:
        found["evaluation"] = trainer.evaluate()
    return found


def write_steps(splits: Mapping[Path, tuple[int, int, int]], caches: Mapping[str, str]) -> None:
    """Writes each split's steps as JSON; without an error where gloo is done too early.

    Args:
        splits: a file -> rows of a process at a time, micro-batches of a step, ZeRO stage.
        caches: signal -> a folder of the teacher's signal on rows of the toy language.
    """
    for out, split in splits.items():
        steps = {}
        for case in CASES:
            gc.freeze()  # accelerate collects garbage twice a case, and earlier cases are no news
            steps[case] = one_case(case, out.with_suffix(""), caches, *split)
        if not dist.is_initialized() or dist.get_rank() == 0:
            out.write_text(json.dumps(steps))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
