"""Head or tail first? The gap on each, step by step, as a student learns by one divergence.

    fit(student, rows, tokenizer, teacher=teacher, divergence="reverse_kl", watch=watch, ...)

    kd-lab demo --study smol           # on the real model
    python -m evidence heads_and_tails runs/demo-smol

Wu et al. 2024 (arXiv 2404.02657) report: early in training forward KL fits the head of the
teacher's distribution first, reverse KL its tail. All divergences of a seed go on from one start
and see the same batches. SFT has brought that start near enough to the teacher for reverse KL to
work. We measure the gaps on held-out rows.
"""

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from transformers.trainer_callback import PrinterCallback

from evidence.head_tail_gaps import measure_gaps
from kd_lab.data.packed_rows import PackedRows
from kd_lab.runs.versions import run_versions
from kd_lab.smollm2 import FOLDER, check_whole
from kd_lab.student import StudentArguments, load_student
from kd_lab.teacher.stored import stored_answers
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.token_distil import TokenDistilTrainer

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

DIVERGENCES = ("forward_kl", "reverse_kl", "adaptive_kl")
SEEDS = 8
# On SmolLM2.
START_STEPS, AT = 12, (0, 2, 4, 8, 12)
ROWS, TEST_ROWS, LEARNING_RATE = 4, 12, 3e-4


class WatchGaps(TrainerCallback):
    """Measures the gaps on held-out rows before the first step and after some others.

    Args:
        teacher: in eval mode.
        rows: held-out rows.
        vocab_size: how many vocabulary rows of both LM heads are real tokens.
        at: the steps at which to measure; 0 is the start.
    """

    def __init__(
        self, teacher: PreTrainedModel, rows: PackedRows, vocab_size: int, at: Sequence[int]
    ) -> None:
        self.teacher, self.rows, self.vocab_size, self.at = teacher, rows, vocab_size, at
        self.gaps: list[dict[str, float]] = []  # at each step in ``at``; see ``measure_gaps``

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **others: Any,
    ) -> None:
        self.on_step_end(args, state, control, **others)

    def on_step_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **others: Any,
    ) -> None:
        if state.global_step in self.at:
            model = others["model"].eval()
            self.gaps.append(
                measure_gaps(model, self.teacher, self.rows, vocab_size=self.vocab_size)
            )
            model.train()


def fit(
    student: PreTrainedModel,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    batch_size: int = 64,
    teacher: PreTrainedModel | None = None,
    divergence: str = "forward_kl",
    watch: WatchGaps | None = None,
) -> PreTrainedModel:
    """A copy of the student after some steps at a constant learning rate.

    Args:
        rows: training rows (kd_lab/data/examples.py).
        seed: of the order of the rows.
        teacher: the loss is the divergence from it; without a teacher the loss is SFT's.
    """
    # Not a deep copy: a trainer leaves a forward() on its model that is bound to that very model.
    model = type(student)(copy.deepcopy(student.config))
    model.load_state_dict(student.state_dict())
    with tempfile.TemporaryDirectory() as scratch:
        config = DistilConfig(
            output_dir=scratch,
            divergence=divergence,
            alpha=0 if teacher is None else 1,
            max_steps=steps,
            learning_rate=learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=5,
            adam_beta2=0.98,
            per_device_train_batch_size=batch_size,
            train_sampling_strategy="random",
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = TokenDistilTrainer(
            model,
            teacher,
            config,
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[] if watch is None else [watch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer.model.eval()


def measure(runs: Path) -> dict[str, Any]:
    """The curves of SmolLM2, on the answers that it wrote in the smol study.

    Raises:
        ValueError: the folder holds none, or SmolLM2 is not fetched.
    """
    return smol_curves(str(runs / "train_answers"), str(runs / "test_answers"))


def smol_curves(
    answers: str,
    test_answers: str,
    *,
    seeds: int = SEEDS,
    start_steps: int = START_STEPS,
    at: Sequence[int] = AT,
) -> dict[str, Any]:
    """The gaps of students of SmolLM2's every other layer, on its own answers.

    Args:
        answers, test_answers: folders of ``kd-lab generate`` that SmolLM2 wrote.
    Returns:
        ``curves``: divergence -> metric -> [seeds][steps in ``at``]; and all settings.
    Raises:
        ValueError: no seed, or a folder that holds something else.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, not {seeds}")
    rows = stored_answers(answers, verify=True)
    test_rows = stored_answers(test_answers, verify=True)
    held_out = PackedRows.of(test_rows.select(range(min(TEST_ROWS, len(test_rows)))))
    check_whole()
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    teacher = AutoModelForCausalLM.from_pretrained(FOLDER).requires_grad_(False).eval()
    shallow = load_student(
        StudentArguments(model_name_or_path=str(FOLDER), keep_every=2), tokenizer
    )
    gaps_of: dict[str, list[list[dict[str, float]]]] = {name: [] for name in DIVERGENCES}
    for seed in range(1, seeds + 1):
        start = fit(
            shallow, rows, tokenizer, steps=start_steps, learning_rate=LEARNING_RATE, seed=seed,
            batch_size=ROWS,
        )  # fmt: skip
        for name in DIVERGENCES:
            watch = WatchGaps(teacher, held_out, len(tokenizer), at)
            fit(
                start, rows, tokenizer, steps=at[-1], learning_rate=LEARNING_RATE, seed=seed,
                batch_size=ROWS, teacher=teacher, divergence=name, watch=watch,
            )  # fmt: skip
            gaps_of[name].append(watch.gaps)
            gaps = ", ".join(f"{part} {watch.gaps[-1][part]:.3f}" for part in ("head", "tail"))
            print(f"seed {seed}, {name}: {gaps} after {at[-1]} steps", flush=True)
    return {
        "at": list(at),
        "start_steps": start_steps,
        "seeds": seeds,
        "learning_rate": LEARNING_RATE,
        "batch_size": ROWS,
        "test_tokens": int(held_out.positions_per_row().sum()),
        "curves": by_metric(gaps_of),
        "versions": run_versions({}),
    }


def by_metric(
    gaps_of: dict[str, list[list[dict[str, float]]]],
) -> dict[str, dict[str, list[list[float]]]]:
    """Divergence -> metric -> numbers, from divergence -> [seeds][steps] of ``measure_gaps``."""
    return {
        name: {
            metric: [[point[metric] for point in curve] for curve in curves]
            for metric in curves[0][0]
        }
        for name, curves in gaps_of.items()
    }
