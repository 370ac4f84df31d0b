"""What ``kd-lab evaluate`` can be asked, and what it refuses before anything is loaded."""

from dataclasses import dataclass, field
from pathlib import Path

from kd_lab.evaluation.bartscore import BART
from kd_lab.models import check_dtype
from kd_lab.next_step import check_folder, check_model_path
from kd_lab.rollout.sampling import Sampling
from kd_lab.rollout.sampling_arguments import SamplingArguments, sampling_of
from kd_lab.runs.run_files import RESULT
from kd_lab.teacher.arguments import TeacherArguments, check_teacher_arguments


@dataclass(kw_only=True)
class EvaluateArguments(TeacherArguments, SamplingArguments):
    """What to evaluate, and on which answers.

    Without a teacher, fidelity is not measured. The sampling is that of the student's answers;
    sequence-level reverse KL needs its own distribution: temperature 1, top_p 1, top_k 0.
    """

    model_name_or_path: str = field(
        metadata={"help": "The student (or any model), a folder or a name on the model hub."}
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Its revision on the hub: a branch, tag or commit."}
    )
    dtype: str = field(
        default="auto", metadata={"help": "Its dtype: float32, bfloat16, or auto: as it was saved."}
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": f"Where {RESULT} goes. Default: the model's folder."},
    )
    answers_dir: str | None = field(
        default=None,
        metadata={
            "help": "Where answers are stored. Evaluations that share it share the teacher's. "
            "Default: answers/ in output_dir."
        },
    )
    answers: str | None = field(
        default=None,
        metadata={
            "help": "The student's answers, written before by kd-lab generate --split test (with "
            "vLLM, or on several GPUs); how they were sampled is read there."
        },
    )
    teacher_answers: str | None = field(
        default=None, metadata={"help": "The teacher's, likewise, sampled at temperature 1."}
    )
    answers_per_prompt: int = field(
        default=1, metadata={"help": "Answers to each prompt; an example is the mean over them."}
    )
    max_prompt_length: int = field(
        default=1024, metadata={"help": "Conversations with longer prompts, in tokens, are left."}
    )
    max_length: int = field(
        default=2048, metadata={"help": "Of prompt and reference, in tokens; the rest is cut off."}
    )
    tokens_per_batch: int = field(
        default=8192, metadata={"help": "Tokens of a forward pass over given text."}
    )
    bart_model: str | None = field(
        default=BART,
        metadata={"help": "For BARTScore: a folder, or a hub name that was fetched before; never."},
    )
    seed: int = field(default=0, metadata={"help": "Of the answers and of the intervals."})


def check_evaluate_arguments(args: EvaluateArguments) -> Sampling:
    """Refuse what can be refused before anything is loaded.

    Returns:
        how the student's answers are drawn.
    Raises:
        ValueError: a setting outside its range, or no folder to write to.
    """
    check_dtype("dtype", args.dtype)
    check_teacher_arguments(args)
    for name in ("answers_per_prompt", "tokens_per_batch", "max_prompt_length"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(args, name)}")
    if not 0 <= args.seed < 2**64:
        raise ValueError(f"seed must lie in [0, 2^64), not {args.seed}")
    if args.max_length <= args.max_prompt_length:
        raise ValueError(
            f"max_length {args.max_length} must exceed max_prompt_length {args.max_prompt_length}, "
            "or nothing of a reference is left"
        )
    for name in ("answers", "teacher_answers"):
        check_folder(name, getattr(args, name), "generate --split test")
    output_folder(args)
    return sampling_of(args)


def output_folder(args: EvaluateArguments) -> Path:
    """Where evaluation.json goes.

    Raises:
        ValueError: the model is of the hub, and no folder is given.
    """
    check_model_path("model_name_or_path", args.model_name_or_path)
    if args.output_dir is not None:
        return Path(args.output_dir)
    if not Path(args.model_name_or_path).is_dir():
        raise ValueError(
            f"there is no folder {args.model_name_or_path}; if it is a name on the hub, say by "
            f"output_dir where {RESULT} goes"
        )
    return Path(args.model_name_or_path)
