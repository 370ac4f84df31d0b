"""A few optimizer steps of one trainer in a process of its own: seconds and peak memory of each.

    python benchmarks/one_trainer.py ours qwen_vocab float32 2      # prints one line of JSON

training_step.py runs this in pairs. Both trainers get the same student, teacher, rows and training
arguments. They learn by forward KL alone, at every token of a row except its first.

qwen_vocab  untrained models of Qwen2.5's shape with its true vocabulary, widths 896 (student) and
            1536, 2 layers
smol        SmolLM2-135M-Instruct into every other layer of it
"""

import ctypes
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    TrainerCallback,
)
from trl import SFTTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer

from kd_lab.smollm2 import FOLDER as SMOLLM2
from kd_lab.student import StudentArguments, load_student
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.token_distil import TokenDistilTrainer

ROWS, LENGTH = 4, 256
MIB = 2**20


def qwen_pair(dtype: str) -> tuple[PreTrainedModel, PreTrainedModel, PreTrainedTokenizerBase]:
    from tests.helpers.qwen_vocabulary import ROWS_UP_TO_3B, qwen_tokenizer

    torch.manual_seed(0)
    pair = []
    for hidden, intermediate, heads in (896, 4864, 14), (1536, 8960, 12):  # of 0.5B and of 1.5B
        config = Qwen2Config(
            vocab_size=ROWS_UP_TO_3B,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_attention_heads=heads,
            num_key_value_heads=2,
            num_hidden_layers=2,
            tie_word_embeddings=True,
        )
        pair.append(AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)))
    return *pair, qwen_tokenizer()


def smol_pair(dtype: str) -> tuple[PreTrainedModel, PreTrainedModel, PreTrainedTokenizerBase]:
    teacher = AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype=getattr(torch, dtype))
    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2)
    half = StudentArguments(model_name_or_path=str(SMOLLM2), keep_every=2, dtype=dtype)
    return load_student(half, tokenizer), teacher, tokenizer


PAIRS = {"qwen_vocab": qwen_pair, "smol": smol_pair}


def trainer_of(kind: str, case: str, dtype: str, steps: int, folder: str) -> SFTTrainer:
    """Ours or TRL's, ready to train for ``steps`` steps on rows that are the same for both."""
    student, teacher, tokenizer = PAIRS[case](dtype)
    torch.manual_seed(0)
    rows = torch.randint(0, len(tokenizer), (steps * ROWS, LENGTH)).tolist()
    arguments: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": ROWS,
        "max_steps": steps,
        "max_length": LENGTH,
        "train_sampling_strategy": "sequential",
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "bf16": False,  # the models' own dtype, without autocast
        "activation_checkpointing": False,
        "use_cpu": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    if kind == "ours":
        labels = [[-100, *row[1:]] for row in rows]
        columns = {"input_ids": rows, "labels": labels, "prompt_length": [1] * len(rows)}
        return TokenDistilTrainer(
            student,
            teacher,
            DistilConfig(divergence="forward_kl", alpha=1.0, **arguments),
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
        )
    mask = [0] + [1] * (LENGTH - 1)
    columns = {"input_ids": rows, "completion_mask": [mask] * len(rows), "prompt": [""] * len(rows)}
    return GKDTrainer(
        student,
        teacher,
        # lmbda 0: the rows as they are; beta 0: F.kl_div(student, teacher), D(p‖q) exactly
        GKDConfig(lmbda=0.0, beta=0.0, **arguments),
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
    )


class StepMeter(TrainerCallback):
    """Times each step and takes its peak resident memory, from its first forward to zeroed grads.

    At a step's start the process holds the parameters of both models and the optimizer's state.
    (The first step, which makes this state, does not count.) Freed memory has been handed back. The
    peak is counted above that and without the gradients.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        self.resident = high_water_mark()
        self.start = time.perf_counter()

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        gradients = (weight.grad for weight in model.parameters() if weight.grad is not None)
        self.gradients = sum(gradient.nbytes for gradient in gradients)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        seconds = time.perf_counter() - self.start
        above = high_water_mark() - self.resident
        self.steps.append(
            {
                "seconds": seconds,
                "peak_mib": (above - self.gradients) / MIB,
                "gradients_mib": self.gradients / MIB,
                "resident_mib": self.resident / MIB,
            }
        )


def high_water_mark() -> int:
    """Peak resident bytes of this process since it was last reset (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise ValueError("this system has no VmHWM in /proc/self/status; run it on Linux")


def main(kind: str, case: str, dtype: str, steps: int) -> None:
    meter = StepMeter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(kind, case, dtype, steps + 1, folder)
        trainer.add_callback(meter)
        result = trainer.train()
    print(json.dumps({"loss": result.training_loss, "steps": meter.steps[1:]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
