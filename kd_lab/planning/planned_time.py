"""The work of a training run: operations, hours by the clock, and what they cost.

Training is arithmetic over the GPU's peak times an assumed utilisation, and the loss's passes over
the logits, which wait for memory. Writing is an assumed time for each token.
"""

import math
from typing import NamedTuple

from kd_lab.model_shapes import ModelShape
from kd_lab.planning.planned_run import Job, drawn

# Bytes that the loss's passes read and write for each token and word, by divergence: counted by
# benchmarks/traffic.py. Others go through torch.compile, which needs about 32. An H200's memory is
# so fast that arithmetic counts too: its passes took twice as long, 1.4% of a training step.
BYTES_PER_CELL = {
    "forward_kl": 10.62,
    "reverse_kl": 10.77,
    "jensen_shannon": 10.77,
    "adaptive_kl": 34.09,
    "skew_forward_kl": 10.77,
    "skew_reverse_kl": 10.77,
    "total_variation": 10.77,
}
COMPILED_BYTES, SFT_BYTES, STORED_BYTES = 32.0, 6.08, 10.19
BFLOAT16, CAST = 2, 6  # bytes of a weight that is read; of a float32 one that is cast before
REACHED = 0.8  # of a memory's bandwidth, as benchmarks/traffic.py assumes for an H100 and an A100
# Of it where a product of 64 rows reads weights: as `compiled_decode` found on an H200, of 1.5 and
# 7 billion weights.
REACHED_BY_PRODUCTS = 0.37


class Time(NamedTuple):
    """The parts of a run's time."""

    steps: int
    training_flops: float
    evaluation_flops: float
    loss_hours: float  # of passes over logits
    writing_hours: float
    hours: float  # all of it, by the clock


def plan_time(job: Job) -> Time:
    """The arithmetic, and the hours by the clock."""
    plan, config, student, teacher = job.plan, job.config, job.student, job.teacher
    length = min(plan.conversation_tokens, job.longest)
    tokens = job.trained_conversations * float(length)
    trained = tokens * plan.trained_share
    passes = 2 if job.lora else 3  # of frozen weights no gradient is made
    training = passes * student.forward_flops(tokens, length, trained)
    if config.gradient_checkpointing:
        training += student.again_flops(tokens, length)
    if teacher is not None and job.has_divergence:
        training += teacher.forward_flops(tokens, length, trained)
    if teacher is not None and config.policy_gradient:  # the written tokens' log-probabilities
        training += 2 * trained * (student.head + teacher.head)

    tested = evaluations(job) * _test_conversations(job) * float(length)
    heads = tested * plan.trained_share * (3 if teacher is not None else 1)  # loss and both KLs
    evaluation = student.forward_flops(tested, length, heads)
    if teacher is not None:
        evaluation += teacher.forward_flops(tested, length, heads)

    speed = plan.gpu_tflops * 1e12 * plan.utilisation * plan.gpus
    passes_of_loss = (trained + heads) * student.vocabulary * bytes_per_cell(job)
    loss = passes_of_loss / (_bandwidth(job) * plan.gpus) / 3600
    writing = _writing_seconds(job) / 3600
    hours = (training + evaluation) / speed / 3600 + loss + writing
    return Time(job.steps, training, evaluation, loss, writing, hours)


def bytes_per_cell(job: Job) -> float:
    """Bytes that the loss's passes move for each trained token and word of the vocabulary."""
    if not job.point.has_divergence:
        return SFT_BYTES
    if job.teacher is None:
        return STORED_BYTES
    return BYTES_PER_CELL.get(job.config.divergence, COMPILED_BYTES)


def evaluations(job: Job) -> int:
    """How often transformers evaluates: every so often, at the end, and before the first step."""
    config = job.config
    if config.eval_strategy == "no":
        return 0
    if config.eval_strategy == "epoch":
        last, every = job.epochs, 1
    else:
        asked = config.eval_steps or config.logging_steps
        last, every = job.steps, math.ceil(job.steps * asked) if asked < 1 else int(asked)
    delay = config.eval_delay  # in epochs or in steps, as the strategy is
    regular = max(int(last // every) - max(math.ceil(delay / every) - 1, 0), 0)
    at_the_end = last % every > 0 and delay <= last
    return bool(config.eval_on_start) + regular + at_the_end


def _bandwidth(job: Job) -> float:
    """Bytes a second that one GPU's memory really delivers."""
    return job.plan.gpu_bandwidth_tb * 1e12 * REACHED


def _test_conversations(job: Job) -> int:
    return job.data.num_test_conversations or drawn("toy", "test") or 0


def _writing_seconds(job: Job) -> float:
    """Seconds of the writing models, one token at a time, to the longest answer of each batch.

    The steps of a rollout beside its first train on answers that are there.
    """
    config, plan, rows = job.config, job.plan, job.rows_per_step
    batches = 1 if job.engine == "vllm" else math.ceil(rows / config.rollout_batch_size)
    each = 0.0  # a token of a batch
    for name, model in _writing_models(job).items():
        if job.engine == "vllm":
            weights = model.parameters * BFLOAT16 / _bandwidth(job)
            each += plan.vllm_token_ms / 1000 + weights + _cached_seconds(job, model, rows)
        elif config.compile_decode:
            each += _compiled_seconds(job, name, model, min(rows, config.rollout_batch_size))
        else:
            each += model.layers * plan.layer_ms / 1000
    updates = config.updates_per_rollout if config.policy_gradient else 1
    return math.ceil(job.steps / updates) * batches * config.max_new_tokens * each


def _compiled_seconds(job: Job, name: str, model: ModelShape, rows: int) -> float:
    """A token of all rows at once, by a compiled step."""
    products = model.parameters * BFLOAT16 / _bandwidth(job) * REACHED / REACHED_BY_PRODUCTS
    is_cast = name == "student" and job.product < job.held
    cast = model.parameters * CAST / _bandwidth(job) if is_cast else 0.0
    each_layer = model.layers * job.plan.compiled_layer_ms / 1000
    return each_layer + products + cast + _cached_seconds(job, model, rows)


def _cached_seconds(job: Job, model: ModelShape, rows: int) -> float:
    """Keys and values of all rows, read once."""
    context = min(job.plan.conversation_tokens, job.longest)
    return rows * context * model.layers * 2 * model.keys * BFLOAT16 / _bandwidth(job)


def _writing_models(job: Job) -> dict[str, ModelShape]:
    models = {"student": job.student, "teacher": job.teacher}
    return {name: model for name, model in models.items() if model and name in job.writers}
