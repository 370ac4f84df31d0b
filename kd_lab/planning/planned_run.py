"""A training run that is only planned: its settings, the machine, and the shapes of two models.

``planned_memory.py`` counts its bytes, ``planned_time.py`` its operations, hours and price.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from kd_lab.methods import Point
from kd_lab.model_shapes import ModelShape, model_shape, summed_shape, untrained
from kd_lab.planning.cards import CARDS, DEFAULT_CARD, find_card

if TYPE_CHECKING:  # importing torch, transformers and trl takes seconds; `kd-lab recipe` has none
    from kd_lab.data.conversations import DataArguments
    from kd_lab.planning.planned_config import PlannedConfig
    from kd_lab.student import StudentArguments
    from kd_lab.teacher.of_training import TrainTeacherArguments

GB = 1e9
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes
# The linear layers of a Llama or Qwen, and those of them that PEFT adapts by default.
LINEAR_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
ADAPTED = {"q_proj", "v_proj"}


@dataclass
class PlanArguments:
    """The machine, and the assumptions that neither it nor the recipe settles."""

    gpus: int = field(default=1, metadata={"help": "Number of GPUs on all machines together."})
    gpu: str = field(
        default=DEFAULT_CARD,
        metadata={"help": f"The card, with its memory and speed: {', '.join(CARDS)}."},
    )
    gpu_memory_gb: float = field(
        default=None,  # type: ignore[assignment]
        metadata={"help": "Memory of one GPU, in 10^9 bytes; by default the card's."},
    )
    gpu_tflops: float = field(
        default=None,  # type: ignore[assignment]
        metadata={
            "help": "Peak of one GPU in dense bfloat16, 10^12 a second; by default the card's."
        },
    )
    gpu_bandwidth_tb: float = field(
        default=None,  # type: ignore[assignment]
        metadata={
            "help": "Bandwidth of one GPU's memory, 10^12 bytes a second; by default the card's."
        },
    )
    utilisation: float = field(
        default=0.4,
        metadata={"help": "Share of the peak that training reaches; an H200 reached 0.4."},
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
            "help": "Milliseconds of one layer at one token of a batch that transformers writes; "
            "0.7 to 1.2 beside an H200."
        },
    )
    compiled_layer_ms: float = field(
        default=0.15,
        metadata={
            "help": "Milliseconds of one layer at one token of a batch with compile_decode, beside "
            "what it takes to read weights, keys and values; with these an H200 took 0.21 to 0.46."
        },
    )
    vllm_token_ms: float = field(
        default=2.0,
        metadata={
            "help": "Milliseconds of one token of a batch that vLLM writes, beside what it takes "
            "to read weights, keys and values."
        },
    )
    price_per_hour: float = field(
        default=None,  # type: ignore[assignment]
        metadata={"help": "What you pay for an hour of one GPU, in any currency."},
    )

    def __post_init__(self) -> None:
        card = find_card(self.gpu)
        if self.gpu_memory_gb is None:
            self.gpu_memory_gb = card.memory_gb
        if self.gpu_tflops is None:
            self.gpu_tflops = card.tflops
        if self.gpu_bandwidth_tb is None:
            self.gpu_bandwidth_tb = card.bandwidth_tb


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
        return self.student.lora_parameters(arguments.lora_r, lora_targets(arguments))

    @property
    def point(self) -> Point:
        """Where it lies on the map."""
        return self.config.point

    @property
    def has_divergence(self) -> bool:
        """Whether a teacher's logits are made; a stored teacher has them in a few numbers."""
        return self.teacher is not None and self.point.has_divergence

    @property
    def loaded(self) -> int:
        """Bytes of one of the student's weights as they are loaded."""
        dtype = self.student_arguments.dtype or "float32"
        is_new = self.student_arguments.model_name_or_path is None  # auto: made in float32
        return WIDTHS.get(dtype, 4 if is_new else 2)

    @property
    def held(self) -> int:
        """Bytes of one of the student's weights on a GPU.

        DeepSpeed keeps the model in bfloat16 and beside it a float32 copy, sharded.
        """
        return 2 if self.plan.zero_stage and self.config.bf16 else self.loaded

    @property
    def trained_width(self) -> int:
        """Bytes of a trained weight, and of its gradient; PEFT keeps adapters in float32."""
        return 4 if self.lora and not self.plan.zero_stage else self.held

    @property
    def product(self) -> int:
        """Bytes of a number in the student's matrix products."""
        return 2 if self.config.bf16 else self.held

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
    def engine(self) -> str:
        """Who writes answers during training: transformers or vllm."""
        return getattr(self.config, "rollout_engine", "transformers")

    @property
    def writers(self) -> list[str]:
        """The models that write during training; both write each token of a policy gradient."""
        student = bool(self.config.written_share)
        mixed = student and self.config.policy_gradient and self.config.teacher_mix > 0
        teacher = self.teacher is not None and (self.teacher_writes or mixed)
        return ["student"] * student + ["teacher"] * teacher

    @property
    def rows_per_step(self) -> int:
        """Rows of one process in an optimizer step."""
        return self.config.per_device_train_batch_size * self.config.gradient_accumulation_steps

    @property
    def conversations(self) -> int:
        count = self.data.num_conversations
        if count is None:
            count = drawn(self.data.dataset, "train")
        if count is None:
            raise ValueError("num_conversations: give the number of conversations in the files")
        return count

    @property
    def steps(self) -> int:
        """Steps of the optimizer, as transformers counts them: the rest of an epoch is one too."""
        if self.config.max_steps > 0:
            return self.config.max_steps
        return math.ceil(self.config.num_train_epochs * self._steps_of_epoch)

    @property
    def epochs(self) -> float:
        """Epochs that have passed after the last step, as transformers counts them."""
        whole, rest = divmod(self.steps, self._steps_of_epoch)
        return whole + (rest and rest * self.config.gradient_accumulation_steps / self._batches)

    @property
    def _batches(self) -> int:
        """Batches of a process in an epoch."""
        dealt = self.conversations / (self.config.per_device_train_batch_size * self.plan.gpus)
        return math.floor(dealt) if self.config.dataloader_drop_last else math.ceil(dealt)

    @property
    def _steps_of_epoch(self) -> int:
        return max(math.ceil(self._batches / self.config.gradient_accumulation_steps), 1)

    @property
    def trained_conversations(self) -> int:
        """Conversations of all steps, rounded up to a whole step once, not once an epoch."""
        batch, steps = self.rows_per_step * self.plan.gpus, self.steps
        if self.config.max_steps <= 0:
            whole = math.ceil(self.conversations / batch * self.config.num_train_epochs)
            steps = min(steps, whole)
        return steps * batch


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
    for name in (
        "gpus", "gpu_memory_gb", "gpu_tflops", "gpu_bandwidth_tb", "conversation_tokens",
        "price_per_hour",
    ):  # fmt: skip
        value = getattr(plan, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, not {value}")
    for name in ("utilisation", "trained_share"):
        if not 0 < getattr(plan, name) <= 1:
            raise ValueError(f"{name} must lie in (0, 1], not {getattr(plan, name)}")
    if plan.zero_stage not in (0, 1, 2, 3):
        raise ValueError(f"zero_stage must be 0, 1, 2 or 3, not {plan.zero_stage}")
    if student.use_peft and lora_targets(student) - LINEAR_LAYERS:
        raise ValueError(
            "lora_target_modules: plan knows " + ", ".join(sorted(LINEAR_LAYERS)) + ", all-linear"
        )
    if student.model_name_or_path is not None:
        own = model_shape(student.model_name_or_path, student.keep_every)
    else:
        assert isinstance(student.model_shape, dict)
        own = summed_shape(untrained(student.model_shape))
    live = None if teacher.teacher_cache else teacher.teacher_model_name_or_path
    point = config.point
    if not point.has_divergence and teacher.answers is not None and config.eval_strategy == "no":
        live = None
    return Job(
        plan,
        student,
        data,
        config,
        own,
        None if live is None else model_shape(live),
        WIDTHS.get(teacher.teacher_dtype, 4 if config.on_cpu else 2),
        teacher_writes=point.source.writer == "teacher"
        and teacher.answers is None
        and teacher.teacher_cache is None,
    )


def drawn(dataset: str, split: str) -> int | None:
    """How many conversations a named source draws by default."""
    from kd_lab.data.conversations import DRAWN, NAMED

    return DRAWN[split] if dataset in NAMED else None


def lora_targets(student: "StudentArguments") -> set[str]:
    """The linear layers that LoRA adapts."""
    named = student.lora_target_modules
    if named is None:
        return ADAPTED
    return LINEAR_LAYERS if named in ("all-linear", ["all-linear"]) else {*named}
