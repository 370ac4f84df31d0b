"""The options of ``kd-lab evaluate``, and their checks before anything is loaded."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from kd_lab.data.shards import ShardStore
from kd_lab.evaluation.bartscore import BART, check_bart
from kd_lab.models import check_dtype
from kd_lab.next_step import check_folder, check_model_path
from kd_lab.rollout.sampling import Sampling
from kd_lab.rollout.sampling_arguments import SamplingArguments, check_compiled, sampling_of
from kd_lab.runs.run_files import RESULT
from kd_lab.teacher.arguments import TeacherArguments, check_teacher_arguments


@dataclass(kw_only=True)
class EvaluateArguments(TeacherArguments, SamplingArguments):
    """The model to evaluate, and its answers.

    Without a teacher there is no fidelity. The sampling options are for the student's answers.
    Sequence-level reverse KL needs the student's own distribution: temperature 1, top_p 1, top_k 0.
    """

    model_name_or_path: str = field(
        metadata={"help": "The student (or any model), a folder or a name on the model hub."}
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "The model's revision on the hub: a branch, tag or commit."}
    )
    dtype: str = field(
        default="auto",
        metadata={"help": "The model's dtype: float32, bfloat16, or auto: as it was saved."},
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": f"The folder of {RESULT}. Default: the model's folder."},
    )
    answers_dir: str | None = field(
        default=None,
        metadata={
            "help": "The folder of stored answers. Evaluations that share it share the teacher's. "
            "Default: answers/ in output_dir."
        },
    )
    answers: str | None = field(
        default=None,
        metadata={
            "help": "A folder of kd-lab generate --split test: the student's stored answers (from "
            "vLLM, or from several GPUs). Their sampling is read there, one answer a prompt."
        },
    )
    teacher_answers: str | None = field(
        default=None, metadata={"help": "Such a folder of the teacher's answers, at temperature 1."}
    )
    answers_per_prompt: int = field(
        default=1, metadata={"help": "Answers to each prompt; an example is the mean over them."}
    )
    max_prompt_length: int = field(
        default=1024, metadata={"help": "Longer prompts, in tokens, are left out."}
    )
    max_length: int = field(
        default=2048, metadata={"help": "Most tokens of prompt and reference; the rest is cut off."}
    )
    tokens_per_batch: int = field(
        default=8192, metadata={"help": "Tokens of a forward pass over given text."}
    )
    bart_model: str | None = field(
        default=BART,
        metadata={
            "help": "BART for BARTScore: a folder, or a hub name fetched before; null in a recipe "
            "leaves it out."
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of the answers and of the intervals."})


def check_evaluate_arguments(args: EvaluateArguments) -> EvaluateArguments:
    """Check the options before anything is loaded.

    Returns:
        the options that hold: of stored answers, how they were drawn.
    Raises:
        ValueError: a setting outside its range, or other than that of stored answers. Or there is
            no folder to write to.
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
    sampling_of(args)
    if args.compile_decode and args.teacher_answers is None:
        check_compiled("teacher_attn_implementation", args.teacher_attn_implementation)
    check_bart(args.bart_model)
    output_folder(args)
    return _with_stored(args)


def _with_stored(args: EvaluateArguments) -> EvaluateArguments:
    """The options, with those of the student's stored answers.

    A default that they contradict gives way, since nobody may have given it.

    Raises:
        ValueError: an option contradicts the stored answers; or the teacher's answers are cut at
            another length than the student's.
    """
    if args.answers is not None:
        drawn = _drawn(args.answers)
        theirs: dict[str, Any] = {
            "max_new_tokens": drawn.max_new_tokens,
            "sampling_temperature": drawn.temperature,
            "top_p": drawn.top_p,
            "top_k": drawn.top_k,
            "answers_per_prompt": 1,
        }
        defaults = {option.name: option.default for option in fields(args)}
        for name, value in theirs.items():
            if (given := getattr(args, name)) not in (value, defaults[name]):
                raise ValueError(
                    f"answers: those in {args.answers} have {name} {value}, not {given}: leave "
                    f"{name} out, or give other answers"
                )
        args = replace(args, **theirs)
    if args.teacher_answers is not None:
        length = _drawn(args.teacher_answers).max_new_tokens
        if length != args.max_new_tokens:
            other = "" if args.answers is not None else f", or give --max_new_tokens {length}"
            raise ValueError(
                f"teacher_answers: those in {args.teacher_answers} have max_new_tokens {length}, "
                f"and the student's {args.max_new_tokens}: generate them again with "
                f"--max_new_tokens {args.max_new_tokens}{other}"
            )
    return args


def _drawn(folder: str) -> Sampling:
    """How the answers in a folder of `kd-lab generate` were drawn."""
    return Sampling(**ShardStore.open(folder, "answers", verify=False).settings["sampling"])


def output_folder(args: EvaluateArguments) -> Path:
    """The folder of evaluation.json.

    Raises:
        ValueError: the model is of the hub, and no folder is given.
    """
    check_model_path("model_name_or_path", args.model_name_or_path)
    if args.output_dir is not None:
        return Path(args.output_dir)
    if not Path(args.model_name_or_path).is_dir():
        raise ValueError(
            f"there is no folder {args.model_name_or_path}; if it is a name on the hub, give "
            f"--output_dir, the folder of {RESULT}"
        )
    return Path(args.model_name_or_path)
