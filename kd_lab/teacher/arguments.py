"""The teacher's options, the same in every command that has a teacher."""

from dataclasses import dataclass, field

from kd_lab.models import Model, check_attention, check_dtype
from kd_lab.next_step import check_model_path


@dataclass
class TeacherArguments:
    """The teacher, as a model."""

    teacher_model_name_or_path: str | None = field(
        default=None, metadata={"help": "The teacher: a folder, or a name on the model hub."}
    )
    teacher_revision: str | None = field(
        default=None,
        metadata={"help": "The teacher's revision on the hub: a branch, tag or commit."},
    )
    teacher_dtype: str = field(
        default="auto",
        metadata={"help": "Its dtype: float32, bfloat16, float16, or auto: as saved."},
    )
    teacher_attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "Its attention: eager, sdpa, flash_attention_2 or _3, flex_attention, or a "
            "kernel of the hub; transformers chooses by default."
        },
    )


def check_teacher_arguments(args: TeacherArguments) -> None:
    """Check the options before anything is loaded.

    Raises:
        ValueError: an unknown dtype or attention, or a path that leads nowhere.
    """
    check_dtype("teacher_dtype", args.teacher_dtype)
    check_attention("teacher_attn_implementation", args.teacher_attn_implementation)
    check_model_path("teacher_model_name_or_path", args.teacher_model_name_or_path)


def teacher_of(args: TeacherArguments) -> Model | None:
    """The teacher, without reading its files; None without a teacher.

    Raises:
        ValueError: there is no such model.
    """
    if args.teacher_model_name_or_path is None:
        return None
    return Model(
        args.teacher_model_name_or_path,
        args.teacher_revision,
        args.teacher_dtype,
        args.teacher_attn_implementation,
    )
