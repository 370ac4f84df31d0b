"""A distillation run: a point on the map *prefix source × divergence*, and a share of SFT.

    loss = alpha · T² · divergence(teacher, student) + (1 - alpha) · cross-entropy

The positions are those of answers that ``prefixes`` names the writer of. Cross-entropy is of
answers that the dataset or the teacher wrote, never of the student's own. All other settings
(learning rate, batch size, DeepSpeed, checkpoints, logging) are TRL's SFTConfig and transformers'
TrainingArguments, unchanged.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers.utils import is_torch_bf16_gpu_available
from trl import SFTConfig

from kd_lab.divergences import Divergence, get_divergence
from kd_lab.honoured_options import (
    check_accelerator_config,
    check_accelerator_keys,
    check_honoured,
)
from kd_lab.machine.nvidia import nvidia_gpus, torch_build, why_unused
from kd_lab.methods import PREFIX_SOURCES, Point
from kd_lab.rollout.engine_arguments import EngineArguments, check_engine
from kd_lab.rollout.sampling_arguments import SamplingArguments, sampling_of
from kd_lab.trainers.alignment import AlignmentArguments, check_alignment
from kd_lab.trainers.figures import LOSSES
from kd_lab.trainers.mixture_arguments import MixtureArguments, check_mixture
from kd_lab.trainers.ranges import check_ranges

# Float16 has too small a range for gradients: it needs a scaled loss.
NO_FLOAT16 = (
    "the loss makes its gradients in the forward pass, before float16's loss scaling could keep "
    "them from becoming 0"
)


@dataclass
class DistilConfig(
    SamplingArguments, EngineArguments, MixtureArguments, AlignmentArguments, SFTConfig
):
    """Settings of the three trainers. An impossible setting raises ValueError, in one line."""

    divergence: str = field(
        default="forward_kl",
        metadata={
            "help": "The divergence of teacher and student: a name in kd_lab/divergences.py."
        },
    )
    divergence_settings: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "The divergence's own numbers, as JSON: '{\"beta\": 0.3}'."},
    )
    alpha: float = field(
        default=0.5,
        metadata={
            "help": "Share of the divergence, in [0, 1]; the rest is plain SFT. 1 where the "
            "student writes all answers."
        },
    )
    distil_temperature: float = field(
        default=1.0,
        metadata={
            "help": "Temperature T of both distributions in the divergence; its value is times T²."
        },
    )
    chunk_size: int = field(
        default=1024,  # twice CHUNK_SIZE, where the reason stands
        metadata={"help": "Tokens with logits in memory at a time; memory grows with it."},
    )
    prefixes: str = field(
        default="dataset",
        metadata={"help": f"The writer of the training answers: {', '.join(PREFIX_SOURCES)}."},
    )
    student_share: float = field(
        default=0.0,
        metadata={"help": "Share of rows that the student answers anew each step (GKD's lambda)."},
    )
    max_new_tokens: int = field(default=256, metadata={"help": "Most tokens of a written answer."})
    policy_gradient: bool = field(
        default=False,
        metadata={"help": "Sequence-level reverse KL by MiniLLM's policy gradient."},
    )
    teacher_mix: float = field(
        default=0.2,
        metadata={"help": "Policy gradient: the teacher's share in the distribution that writes."},
    )
    length_normalised: bool = field(
        default=True,
        metadata={"help": "Policy gradient: the mean of the later rewards instead of their sum."},
    )
    reward_clip: float | None = field(
        default=None, metadata={"help": "Policy gradient: keep rewards within ± this many nats."}
    )
    updates_per_rollout: int = field(
        default=1,
        metadata={
            "help": "Policy gradient: steps that train on the same answers. The prompts of the "
            "steps between two rollouts are passed over."
        },
    )
    ratio_clip: float = field(
        default=0.2,
        metadata={"help": "Policy gradient: PPO's ε, where a rollout has several updates."},
    )

    # TRL's and transformers' own, with the defaults that suit distillation.
    learning_rate: float = field(default=1e-5, metadata={"help": "The optimizer's learning rate."})
    bf16: bool = field(default=False, metadata={"help": "Mixed precision in bfloat16."})
    gradient_checkpointing: bool = field(  # None: its new name, activation_checkpointing, decides
        default=None,  # type: ignore[assignment]
        metadata={"help": "The old name of activation_checkpointing, off by default."},
    )
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={"help": "random, sequential, or group_by_length: batches of like lengths."},
    )

    def __post_init__(self) -> None:
        check_honoured(self)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], not {self.alpha}")
        check_ranges(self)
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, not {self.chunk_size}")
        mappings = ("divergence_settings", "student_divergence_settings", "alignment_layers")
        for name in mappings:
            if isinstance(text := getattr(self, name), str):
                setattr(self, name, _mapping(name, text))
        self.get_divergence()
        sampling_of(self)  # its ranges
        writer = self.point.source.writer
        if not 0 <= self.student_share <= 1:
            raise ValueError(f"student_share must lie in [0, 1], not {self.student_share}")
        if writer == "student" and self.student_share not in (0, 1):
            raise ValueError(
                f"with prefixes: {self.prefixes} every answer is the student's; for a share of "
                f"{self.student_share} set prefixes to dataset or teacher"
            )
        check_alignment(self, self.alpha)
        check_mixture(self, self.point.student_share, self.eval_strategy != "no")
        self._check_share_of_sft()
        if (self.packing or self.padding_free) and self.written_share:
            raise ValueError(
                "packing and padding_free join rows, so that no answer can be written anew: set "
                "them to false"
            )
        check_engine(self)
        if self.rollout_engine == "vllm":
            self._check_vllm()
        if self.compile_decode:
            self._check_compile_decode()
        if self.policy_gradient:
            self._check_policy_gradient()
        if self.metric_for_best_model is not None:
            self.check_best_figure(LOSSES)
            if self.greater_is_better is None:  # transformers: wherever no "loss" ends the name
                self.greater_is_better = False
        if self.fp16:
            raise ValueError(
                f"fp16 is true, and {NO_FLOAT16}: say --fp16 false and --bf16 true, or neither on "
                "a GPU without bfloat16"
            )
        if self.bf16 and not self.use_cpu and not is_torch_bf16_gpu_available():
            gpus = nvidia_gpus()
            why = why_unused(gpus, torch_build()) if gpus else ""
            raise ValueError(
                f"bf16 is true and no GPU that has it is visible{why and f' ({why})'}: run on one, "
                "or say --bf16 false, or --use_cpu true (slow)"
            )
        check_accelerator_keys(self.accelerator_config)
        if self.fsdp_config and not self.fsdp:
            raise ValueError("fsdp_config would have no effect without fsdp: say --fsdp true too")
        super().__post_init__()
        check_accelerator_config(self.accelerator_config)

    def _check_share_of_sft(self) -> None:
        """Cross-entropy is of answers that the dataset or the teacher wrote: some must be left."""
        if self.written_share == 1 and self.alpha != 1:
            raise ValueError(
                f"alpha is {self.alpha}, but no row is left to be fine-tuned on where the student "
                "writes all answers: say --alpha 1, or set prefixes to dataset or teacher and "
                "student_share below 1"
            )
        if self.written_share and self.alpha == 0 and not self.policy_gradient:
            raise ValueError(
                f"alpha is 0, so the rows that the student writes (student_share is "
                f"{self.student_share}) would train nothing: say --alpha 1, or --student_share 0"
            )

    def _check_vllm(self) -> None:
        """What vLLM cannot write, or would write for nobody."""
        by_teacher = self.point.source.writer == "teacher"
        if not self.written_share and not by_teacher:
            raise ValueError(
                "rollout_engine vllm would have no effect: no answer is written during training; "
                "set prefixes to student or teacher, or leave it out"
            )
        if self.policy_gradient and self.teacher_mix:
            raise ValueError(
                f"teacher_mix is {self.teacher_mix}, and vLLM writes with one model: say "
                "--teacher_mix 0, or --rollout_engine transformers"
            )
        if self.vllm_mode == "server" and by_teacher and self.written_share:
            raise ValueError(
                "a server has one model, and here teacher and student write: say --vllm_mode "
                "colocate, or --student_share 0"
            )

    def _check_compile_decode(self) -> None:
        """Where the step of decoding is vLLM's own, or nobody's."""
        why = ""
        if self.rollout_engine == "vllm":
            why = "vLLM compiles its own steps"
        elif not self.written_share and self.point.source.writer != "teacher":
            why = "no answer is written during training"
        if why:
            raise ValueError(f"compile_decode would have no effect: {why}; leave it out")

    def check_writers(self, answers_are_stored: bool, use_dora: bool) -> None:
        """Refuse options of writers where none writes, and vLLM for weights it cannot take.

        Raises:
            ValueError: names the key, and the change to make.
        """
        if answers_are_stored and not self.written_share:
            for option, is_said in (
                ("rollout_engine vllm", self.rollout_engine == "vllm"),
                ("compile_decode", self.compile_decode),
            ):
                if is_said:
                    raise ValueError(
                        f"{option} would have no effect: the answers are stored ones; leave it out"
                    )
        if self.rollout_engine == "vllm" and use_dora:
            raise ValueError(
                "rollout_engine vllm takes plain LoRA weights: say --use_dora false, or "
                "--rollout_engine transformers"
            )

    def _check_policy_gradient(self) -> None:
        for name, needed in (
            ("divergence", "reverse_kl"),
            ("student_divergence", None),
            ("distil_temperature", 1),
            ("sampling_temperature", 1),
            ("top_p", 1),
            ("top_k", 0),
        ):
            if getattr(self, name) != needed:
                raise ValueError(
                    f"policy_gradient is of the reverse KL between whole answers as the models "
                    f"write them: set {name} to {needed}, not {getattr(self, name)}"
                )
        if not self.written_share:
            raise ValueError("policy_gradient needs answers of the student: set prefixes: student")
        if not 0 <= self.teacher_mix < 1:
            raise ValueError(f"teacher_mix must lie in [0, 1), not {self.teacher_mix}")
        if self.reward_clip is not None and not self.reward_clip > 0:
            raise ValueError(f"reward_clip must be positive, not {self.reward_clip}")
        if self.updates_per_rollout < 1:
            raise ValueError(f"updates_per_rollout must be at least 1: {self.updates_per_rollout}")
        if self.save_strategy == "steps" and self.save_steps % self.updates_per_rollout:
            raise ValueError(
                f"save_steps is {self.save_steps:g}: a run resumed from there would write new "
                f"answers in the middle of its {self.updates_per_rollout} updates_per_rollout; set "
                "it to a multiple of them"
            )
        if not 0 < self.ratio_clip < 1:
            raise ValueError(f"ratio_clip must lie in (0, 1), not {self.ratio_clip}")

    def check_best_figure(self, known: Sequence[str]) -> None:
        """Refuse a ``metric_for_best_model`` that evaluation does not measure.

        Args:
            known: the figures that it measures, without the prefix eval_.
        Raises:
            ValueError: lists the known ones.
        """
        best = self.metric_for_best_model
        if best is not None and best.removeprefix("eval_") not in known:
            raise ValueError(
                f"metric_for_best_model is {best}, which evaluation does not measure here (it "
                f"measures: {', '.join(known)})"
            )

    def get_divergence(self) -> Divergence:
        """The function that ``divergence`` and its settings name."""
        settings = self.divergence_settings or {}
        assert not isinstance(settings, str)
        get_divergence(self.divergence)
        try:
            return get_divergence(self.divergence, **settings)
        except ValueError as error:
            raise ValueError(f"divergence_settings: {error}") from error

    @property
    def point(self) -> Point:
        """Where the training lies on the map."""
        return Point.of(vars(self))

    @property
    def written_share(self) -> float:
        """Share of rows that the student writes: 1 on-policy, 0 never.

        A share that adapts counts from its first step on, also where it starts at 0.
        """
        return max(self.point.student_share, self.point.share_step)


def check_one_gpu(visible: int) -> None:
    """A process trains on one GPU: where it sees several, no launcher started it.

    Args:
        visible: GPUs that this process would use, ``TrainingArguments.n_gpu``.
    Raises:
        ValueError: more than one; says how to use all of them, or one.
    """
    if visible > 1:
        raise ValueError(
            f"{visible} GPUs are visible to one process: use all of them with accelerate launch "
            f"--num_processes {visible} -m kd_lab train ..., or one of them with "
            "CUDA_VISIBLE_DEVICES=0 kd-lab train ..."
        )


def _mapping(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON: {text!r} ({error.msg})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping such as '{{\"beta\": 0.3}}', not {text}")
    return value
