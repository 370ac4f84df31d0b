"""Optimizer steps of our trainer and of TRL's DistillationTrainer, on the same models and rows."""

import tempfile
import time
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback
from trl import DistillationConfig, DistillationTrainer

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.models import Pair, prompt_length
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.token_distil import TokenDistilTrainer


class Timed(NamedTuple):
    """A few steps, the first of which does not count: it makes the optimizer's state."""

    seconds: list[float]
    loss: float  # nats, the mean over all steps


class Clock(TrainerCallback):
    """The time of each step; a GPU's work is waited for on both sides."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.seconds = machine, list[float]()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = self._now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(self._now() - self.start)

    def _now(self) -> float:
        if self.machine.is_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


def common_settings(machine: Machine, folder: str, rows: int, steps: int) -> dict[str, Any]:
    """The training arguments that both trainers get."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": rows,
        "max_steps": steps,
        "learning_rate": 1e-12,  # no case changes the weights for the next
        "lr_scheduler_type": "constant",
        "bf16": machine.is_gpu,
        "use_cpu": not machine.is_gpu,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def ours(
    machine: Machine,
    pair: Pair,
    data: Dataset,
    rows: int,
    *,
    checkpointing: bool,
    **settings: Any,
) -> Timed:
    """Steps of ``TokenDistilTrainer`` through all of ``data``.

    Args:
        rows: of a step.
        settings: the point of the map; alpha 0 trains without the teacher.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = DistilConfig(
            **common_settings(machine, folder, rows, len(data) // rows),
            activation_checkpointing=checkpointing,
            train_sampling_strategy="sequential",
            **settings,
        )
        trainer = TokenDistilTrainer(
            pair.student,
            None if settings.get("alpha") == 0 else pair.teacher,
            config,
            train_dataset=data,
            processing_class=pair.tokenizer,
            vocab_size=pair.vocab_size,
        )
        return _train(machine, trainer)


def theirs(machine: Machine, pair: Pair, data: Dataset, rows: int, *, checkpointing: bool) -> Timed:
    """Steps of TRL's trainer: forward KL at the answers of the same rows, without writing any."""
    steps = len(data) // rows
    with tempfile.TemporaryDirectory() as folder:
        config = DistillationConfig(
            **common_settings(machine, folder, rows, steps),
            gradient_checkpointing=checkpointing,
            beta=0.0,
            shuffle_dataset=False,
        )
        trainer = GivenAnswers(
            pair.student,
            pair.teacher,
            config,
            train_dataset=Dataset.from_dict({"prompt": [""] * len(data)}),
            processing_class=pair.tokenizer,
        )
        ids = torch.tensor(data["input_ids"]).split(rows)
        trainer.given = [_as_answers(some.to(trainer.model.device)) for some in ids]
        return _train(machine, trainer)


class GivenAnswers(DistillationTrainer):
    """TRL's trainer on answers that are there; its own are the student's, new at each step."""

    given: list[dict[str, Tensor]]  # of each step

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Tensor]:
        return self.given[self._step]

    def compute_loss(self, *args: Any, **settings: Any) -> Any:
        # TRL 1.16 calls the student past accelerate's autocast: on one GPU its float32 weights
        # would be multiplied in float32, and a step would take several times as long.
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
            return super().compute_loss(*args, **settings)


def _as_answers(ids: Tensor) -> dict[str, Tensor]:
    length = prompt_length(ids.shape[1])
    prompt, completion = ids[:, :length], ids[:, length:]
    return {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": completion,
        "completion_mask": torch.ones_like(completion),
        "num_items_in_batch": torch.tensor(float(completion.numel()), device=ids.device),
    }


def _train(machine: Machine, trainer: Any) -> Timed:
    clock = Clock(machine)
    trainer.add_callback(clock)
    loss = trainer.train().training_loss
    trainer.model.zero_grad(set_to_none=True)
    return Timed(clock.seconds[1:], loss)
