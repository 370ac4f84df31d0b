"""The memory and work of a training run: bytes on one GPU, operations and hours, from its recipe.

Memory is the sum of

- weights, gradients and AdamW's state, as ZeRO splits them (Rajbhandari et al. 2019, arXiv
  1910.02054); under LoRA those of its adapters,
- the teacher's weights,
- the student's activations that autograd keeps,
- the fused loss's chunks of logits,
- the caches of a model that writes.

Training time is arithmetic over the GPU's peak times an assumed utilisation. Writing time is an
assumed time for each layer of a model at each token.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from kd_lab.methods import PREFIX_SOURCES
from kd_lab.model_shapes import ModelShape, model_shape, summed_shape, untrained

if TYPE_CHECKING:  # importing torch, transformers and trl takes seconds; `kd-lab recipe` has none
    from kd_lab.data.conversations import DataArguments
    from kd_lab.planning.planned_config import PlannedConfig
    from kd_lab.student import StudentArguments
    from kd_lab.train import TrainTeacherArguments

GB = 1e9
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes
# The driver's context, cuBLAS's and NCCL's workspaces. An assumption.
RUNTIME = 2 * GB
# DeepSpeed's own defaults, in numbers: reduce_bucket_size, allgather_bucket_size,
# stage3_max_live_parameters.
BUCKETS, LIVE = 2 * 500_000_000, 1_000_000_000
# The linear layers of a Llama or Qwen, and those of them that PEFT adapts by default.
LINEAR_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
ADAPTED = {"q_proj", "v_proj"}
# [half a chunk, vocabulary] in float32: four that the fused loss keeps on a GPU, and at most as
# many that a divergence takes while it works.
LOGIT_BUFFERS = 8


@dataclass
class PlanArguments:
    """The machine, and the assumptions that neither it nor the recipe settles."""

    gpus: int = field(default=1, metadata={"help": "Number of GPUs on all machines together."})
    gpu_memory_gb: float = field(
        default=80.0, metadata={"help": "Memory of one GPU, in 10^9 bytes."}
    )
    gpu_tflops: float = field(
        default=312.0,
        metadata={"help": "Peak of one GPU in dense bfloat16, 10^12 a second: A100 312, H100 989."},
    )
    utilisation: float = field(
        default=0.4, metadata={"help": "Share of the peak that training reaches."}
    )
    zero_stage: int = field(
        default=0, metadata={"help": "DeepSpeed ZeRO 1, 2 or 3; 0 is one process or DDP."}
    )
    conversation_tokens: int = field(
        default=1200, metadata={"help": "Mean tokens of a conversation, after max_length."}
    )
    trained_share: float = field(
        default=0.8, metadata={"help": "Share of these tokens that is trained: the answers."}
    )
    layer_ms: float = field(
        default=1.0,
        metadata={
            "help": "Milliseconds of one layer at one token of a batch that transformers writes."
        },
    )


class Job(NamedTuple):
    """A training run: its settings and the two models' shapes."""

    plan: PlanArguments
    student_arguments: "StudentArguments"
    data: "DataArguments"
    config: "PlannedConfig"
    student: ModelShape
    teacher: ModelShape | None  # None: none in memory
    teacher_width: int  # bytes of a number; published models are in bfloat16
    teacher_writes: bool

    @property
    def trained_parameters(self) -> int:
        """All parameters of the student, or of its LoRA."""
        arguments = self.student_arguments
        if not arguments.use_peft:
            return self.student.parameters
        return self.student.lora_parameters(arguments.lora_r, _lora_targets(arguments))

    @property
    def longest(self) -> int:
        """The most tokens of any row."""
        length = self.config.max_length or self.plan.conversation_tokens
        written = self.config.written_share or self.teacher_writes
        return length + (self.config.max_new_tokens if written else 0)

    @property
    def lora(self) -> bool:
        return bool(self.student_arguments.use_peft)

    @property
    def rows_per_step(self) -> int:
        """Rows of one process in an optimizer step."""
        return self.config.per_device_train_batch_size * self.config.gradient_accumulation_steps

    @property
    def conversations(self) -> int:
        count = self.data.num_conversations
        if count is None:
            count = _drawn(self.data.dataset, "train")
        if count is None:
            raise ValueError("num_conversations: give the number of conversations in the files")
        return count

    @property
    def steps(self) -> int:
        if self.config.max_steps > 0:
            return self.config.max_steps
        batch = self.rows_per_step * self.plan.gpus
        return math.ceil(self.conversations / batch * self.config.num_train_epochs)


class Memory(NamedTuple):
    """Bytes of one GPU; ``training`` and ``writing`` take turns on top of ``always``."""

    always: dict[str, float]
    training: dict[str, float]
    writing: dict[str, float]

    @property
    def peak(self) -> float:
        turns = (sum(self.training.values()), sum(self.writing.values()))
        return sum(self.always.values()) + max(turns)


class Time(NamedTuple):
    """The parts of a run's time."""

    steps: int
    training_flops: float
    evaluation_flops: float
    writing_hours: float
    hours: float  # all of it, by the clock


def make_job(
    plan: PlanArguments,
    student: "StudentArguments",
    teacher: "TrainTeacherArguments",
    data: "DataArguments",
    config: "PlannedConfig",
) -> Job:
    """The run of a recipe.

    Raises:
        ValueError: a model of unknown size, or a setting that cannot be planned.
    """
    for name in ("gpus", "gpu_memory_gb", "gpu_tflops", "conversation_tokens"):
        if not getattr(plan, name) > 0:
            raise ValueError(f"{name} must be positive, not {getattr(plan, name)}")
    for name in ("utilisation", "trained_share"):
        if not 0 < getattr(plan, name) <= 1:
            raise ValueError(f"{name} must lie in (0, 1], not {getattr(plan, name)}")
    if plan.zero_stage not in (0, 1, 2, 3):
        raise ValueError(f"zero_stage must be 0, 1, 2 or 3, not {plan.zero_stage}")
    if student.use_peft and _lora_targets(student) - LINEAR_LAYERS:
        raise ValueError(
            "lora_target_modules: plan knows " + ", ".join(sorted(LINEAR_LAYERS)) + ", all-linear"
        )
    if student.model_name_or_path is not None:
        own = model_shape(student.model_name_or_path, student.keep_every)
    else:
        assert isinstance(student.model_shape, dict)
        own = summed_shape(untrained(student.model_shape))
    live = None if teacher.teacher_cache else teacher.teacher_model_name_or_path
    if config.alpha == 0 and teacher.answers is not None and config.eval_strategy == "no":
        live = None
    return Job(
        plan,
        student,
        data,
        config,
        own,
        None if live is None else model_shape(live),
        WIDTHS.get(teacher.teacher_dtype, 4 if config.on_cpu else 2),
        teacher_writes=PREFIX_SOURCES[config.prefixes].writer == "teacher"
        and teacher.answers is None
        and teacher.teacher_cache is None,
    )


def plan_memory(job: Job) -> Memory:
    """The bytes that one GPU holds, by name."""
    plan, config, student, teacher = job.plan, job.config, job.student, job.teacher
    gpus, stage = plan.gpus, plan.zero_stage
    loaded = WIDTHS.get(job.student_arguments.dtype or "float32", 2)
    # DeepSpeed keeps the model itself in bfloat16 and beside it a float32 copy, sharded.
    held = 2 if stage and config.bf16 else loaded
    product = 2 if config.bf16 else held
    teacher_held = job.teacher_width
    all_weights, trained, lora = student.parameters, job.trained_parameters, job.lora

    always = {
        "student's weights": all_weights * held / (gpus if stage == 3 else 1),
        "gradients": trained * held / (gpus if stage >= 2 else 1),
        "AdamW": trained * 8 / (gpus if stage else 1),
    }
    if lora:  # PEFT keeps the adapters in float32
        always["LoRA's weights"] = trained * 4 / (gpus if stage == 3 else 1)
    if stage and held == 2:
        always["float32 copy of the weights"] = trained * 4 / gpus
    if not stage and held > product and not lora:  # autocast keeps those of trained weights
        always["bfloat16 copy of the weights"] = (student.layer_parameters + student.head) * product
    if not stage and gpus > 1:
        always["DDP's buckets"] = trained * held
    if teacher is not None:
        split = gpus if stage == 3 else 1
        always["teacher's weights"] = teacher.parameters * teacher_held / split
    if stage in (1, 2):
        always["DeepSpeed's buckets"] = min(BUCKETS, 2 * trained) * held
    if stage == 3:
        gathered = min(LIVE, all_weights) * held
        if teacher is not None:
            gathered += min(LIVE, teacher.parameters) * teacher_held + teacher.head * teacher_held
        always["weights gathered for a layer"] = gathered + student.head * held
    if not job.config.on_cpu:
        always["CUDA, cuBLAS, NCCL"] = RUNTIME

    tokens = config.per_device_train_batch_size * job.longest
    layer = student.saved_bytes(product, held)
    if config.gradient_checkpointing:
        kept = tokens * (student.layers * student.hidden * held + layer)
    else:
        kept = tokens * student.layers * layer
    chunk = min(config.chunk_size, tokens)
    logits = (1.5 if teacher else 1) * chunk * student.vocabulary * product
    if not job.config.on_cpu:
        logits += LOGIT_BUFFERS * (chunk / 2) * student.vocabulary * 4
    # Summed in float32 where a chunk is not all, beside the .grad that it is added to.
    training = {"activations": kept, "chunks of logits": logits}
    if not lora:
        training["gradient of the head"] = student.head * 4
    return Memory(always, training, _writing_memory(job, held))


def _writing_memory(job: Job, held: int) -> dict[str, float]:
    """The gathered weights of the writing models, and their rows' keys and values."""
    config = job.config
    rows = min(job.rows_per_step, config.rollout_batch_size)
    writers = {}
    if config.written_share:
        writers["student"] = (job.student, held)
    if job.teacher is not None and (
        job.teacher_writes or (config.policy_gradient and config.teacher_mix > 0)
    ):
        writers["teacher"] = (job.teacher, job.teacher_width)
    parts = {}
    for name, (model, size) in writers.items():
        if job.plan.zero_stage == 3:
            parts[f"{name}'s whole weights"] = float(model.parameters * size)
        parts[f"{name}'s keys and values"] = float(
            rows * job.longest * model.layers * 2 * model.keys * size
        )
    return parts


def plan_time(job: Job) -> Time:
    """The arithmetic, and the hours by the clock."""
    plan, config, student, teacher = job.plan, job.config, job.student, job.teacher
    length = min(plan.conversation_tokens, job.longest)
    rows = job.steps * job.rows_per_step * plan.gpus
    tokens = rows * float(length)
    trained = tokens * plan.trained_share
    passes = 2 if job.lora else 3  # of frozen weights no gradient is made
    training = passes * student.forward_flops(tokens, length, trained)
    if config.gradient_checkpointing:
        training += student.again_flops(tokens, length)
    if teacher is not None and config.alpha > 0:
        training += teacher.forward_flops(tokens, length, trained)
    if teacher is not None and config.policy_gradient:  # the written tokens' log-probabilities
        training += 2 * trained * (student.head + teacher.head)

    tested = _evaluations(job) * _test_conversations(job) * float(length)
    heads = tested * plan.trained_share * (3 if teacher is not None else 1)  # loss and both KLs
    evaluation = student.forward_flops(tested, length, heads)
    if teacher is not None:
        evaluation += teacher.forward_flops(tested, length, heads)

    speed = plan.gpu_tflops * 1e12 * plan.utilisation * plan.gpus
    writing = _writing_seconds(job) / 3600
    hours = (training + evaluation) / speed / 3600 + writing
    return Time(job.steps, training, evaluation, writing, hours)


def _drawn(dataset: str, split: str) -> int | None:
    """How many conversations a named source draws by default."""
    from kd_lab.data.conversations import DRAWN, NAMED

    return DRAWN[split] if dataset in NAMED else None


def _test_conversations(job: Job) -> int:
    return job.data.num_test_conversations or _drawn("toy", "test") or 0


def _lora_targets(student: "StudentArguments") -> set[str]:
    """The linear layers that LoRA adapts."""
    named = student.lora_target_modules
    if named is None:
        return ADAPTED
    return LINEAR_LAYERS if named in ("all-linear", ["all-linear"]) else {*named}


def _evaluations(job: Job) -> int:
    config = job.config
    if config.eval_strategy == "no":
        return 0
    if config.eval_strategy == "epoch":
        return math.ceil(config.num_train_epochs)
    every = config.eval_steps or config.logging_steps
    every = every * job.steps if every < 1 else every
    return int(job.steps // every) + bool(config.eval_on_start)


def _writing_seconds(job: Job) -> float:
    """Seconds of all layers of the writing models, one token at a time, to the longest answer."""
    config, layers = job.config, 0
    if config.written_share:
        layers += job.student.layers
        if config.policy_gradient and config.teacher_mix > 0 and job.teacher is not None:
            layers += job.teacher.layers
    if job.teacher_writes and job.teacher is not None:
        layers += job.teacher.layers
    batches = math.ceil(job.rows_per_step / config.rollout_batch_size)
    return job.steps * batches * config.max_new_tokens * layers * job.plan.layer_ms / 1000


def checkpoint_bytes(job: Job) -> float:
    """One checkpoint on disk: weights, and the state that AdamW and DeepSpeed need to resume."""
    held = 2 if job.plan.zero_stage and job.config.bf16 else 4
    return job.trained_parameters * (held + 8 + (4 if held == 2 else 0))
