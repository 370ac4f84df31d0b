"""How often a planned run is evaluated, and how much it stores, against transformers' own rules."""

import math
import os

import pytest
from transformers import TrainerControl, TrainerState
from transformers.trainer_callback import DefaultFlowCallback
from transformers.trainer_utils import rotate_checkpoints

from kd_lab.planning.plan import describe
from kd_lab.planning.planned_memory import checkpoint_bytes
from kd_lab.planning.planned_time import evaluations
from tests.helpers.planned import planned

ROWS, ACCUMULATION = 2, 4


def counted(config, conversations):
    """Evaluations of Trainer's loop: its callback decides after each step and each epoch."""
    batches = math.ceil(conversations / ROWS)
    of_epoch = math.ceil(batches / ACCUMULATION)
    steps = config.max_steps
    if steps < 0:
        steps = math.ceil(config.num_train_epochs * of_epoch)
    flow, state = DefaultFlowCallback(), TrainerState(max_steps=steps)
    state.compute_steps(config, steps)
    evaluated = int(config.eval_on_start)
    for step in range(1, steps + 1):
        epoch, of_this = divmod(step - 1, of_epoch)
        state.global_step = step
        state.epoch = epoch + min((of_this + 1) * ACCUMULATION, batches) / batches
        evaluated += flow.on_step_end(config, state, TrainerControl()).should_evaluate
        if of_this + 1 == of_epoch or step == steps:
            evaluated += flow.on_epoch_end(config, state, TrainerControl()).should_evaluate
    return evaluated


@pytest.mark.parametrize("length", ["--max_steps 10", "--max_steps 23", "--num_train_epochs 2.5"])
def test_evaluations_are_those_that_transformers_makes(length):
    job = planned("qwen2.5/sft", *length.split(), "--num_conversations", "37",
                  "--per_device_train_batch_size", str(ROWS),
                  "--gradient_accumulation_steps", str(ACCUMULATION))  # fmt: skip
    config = job.config
    for config.eval_strategy in ("epoch", "steps"):
        for config.eval_steps in (1, 3, 5, 10, 11, 100, 0.3, 0.07, 0.5):
            for config.eval_delay in (0, 0.5, 1, 2, 4.2, 10, 30):
                for config.eval_on_start in (False, True):
                    told = (config.eval_strategy, config.eval_steps, config.eval_delay)
                    assert evaluations(job) == counted(config, 37), told


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("best", [False, True])
def test_the_best_checkpoint_is_stored_beside_the_last(limit, best, tmp_path):
    words = ["--save_total_limit", str(limit)]
    words += ["--load_best_model_at_end", "true"] if best else []
    job = planned("qwen2.5/sft", *words)
    for step in range(1, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
        os.utime(tmp_path / f"checkpoint-{step}", (step, step))
        most = len(list(tmp_path.iterdir()))
        rotate_checkpoints(tmp_path, limit, str(tmp_path / "checkpoint-1") if best else None)
    said = f"at most {checkpoint_bytes(job) / 1e9 * most:,.0f} at a time"
    assert said in describe(job)
