"""The memory of two steps of qwen2.5/token_fkl, against ``kd-lab plan``.

Held against each other: the most bytes of tensors, and the plan without what CUDA and its libraries
take beside them. A trace of fake tensors holds the plan on a CPU (tests/kd_lab/planning/).
"""

import gc
import tempfile
from collections.abc import Iterator

import torch

from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.models import pair, rows
from kd_lab.cli import parse
from kd_lab.divergences import get_divergence
from kd_lab.planning.planned_memory import plan_memory
from kd_lab.planning.planned_run import make_job
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.token_distil import TokenDistilTrainer

RECIPE = ("--config", "qwen2.5/token_fkl")
LENGTH, LENGTH_ON_CPU = 2048, 32  # the recipe's
MOST_ABOVE = 0.08  # a plan may be too high by this, and never too low
DIVERGENCES = ("jensen_shannon", "adaptive_kl")
MOST_APART = 0.1  # GB: the kernels need no scratch for any of them


def measure(machine: Machine) -> Iterator[Figure]:
    planned = plan_memory(make_job(*parse("plan", [*RECIPE, "--gpus", "1"])))
    outside = sum(size for name, size in planned.always.items() if name.startswith("CUDA"))
    plan = (planned.peak - outside) / 1e9
    yield Figure("tensors, planned", plan, "GB")
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(machine, folder)
        if machine.is_gpu:
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
        most = torch.cuda.max_memory_allocated() / 1e9 if machine.is_gpu else None
        yield Figure("tensors, two steps", most, "GB")
        above = None if most is None else plan / most - 1
        yield Figure("plan above the run", above, "relative", low=0, high=MOST_ABOVE)
        first = _one_micro_batch(machine, trainer, "forward_kl")
        for name in DIVERGENCES:
            more = _one_micro_batch(machine, trainer, name)
            apart = None if more is None or first is None else (more - first) / 1e9
            label = f"{name} above forward_kl"
            yield Figure(label, apart, "GB", low=-MOST_APART, high=MOST_APART)


def _trainer(machine: Machine, folder: str) -> TokenDistilTrainer:
    """The recipe's own, on models of random weights."""
    device = () if machine.is_gpu else ("--use_cpu", "true", "--bf16", "false")
    words = [
        *RECIPE, "--output_dir", folder, "--max_steps", "2", "--eval_strategy", "no",
        "--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "true", *device,
    ]  # fmt: skip
    [config] = (part for part in parse("train", words) if isinstance(part, DistilConfig))
    models = pair(machine)
    length = LENGTH if machine.is_gpu else LENGTH_ON_CPU
    count = 2 * config.per_device_train_batch_size * config.gradient_accumulation_steps
    return TokenDistilTrainer(
        models.student, models.teacher, config, train_dataset=rows(models, count, length),
        processing_class=models.tokenizer, vocab_size=models.vocab_size,
    )  # fmt: skip


def _one_micro_batch(machine: Machine, trainer: TokenDistilTrainer, divergence: str) -> int | None:
    """Its peak bytes above those before it, gradients included; None on a CPU."""
    trainer.divergence = get_divergence(divergence)
    trainer.model.zero_grad(set_to_none=True)
    trainer.model.train()
    gc.collect()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    num_items = (batch["labels"] != -100).sum()

    def run() -> None:
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=num_items).backward()

    return machine.peak_bytes(run)
