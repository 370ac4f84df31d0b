"""Which teacher: the same three options in every command that has one."""

from dataclasses import dataclass, field

from kd_lab.models import Model, check_dtype
from kd_lab.next_step import check_model_path


@dataclass
class TeacherArguments:
    """The teacher, as a model."""

    teacher_model_name_or_path: str | None = field(
        default=None, metadata={"help": "The teacher: a folder, or a name on the model hub."}
    )
    teacher_revision: str | None = field(
        default=None, metadata={"help": "Its revision on the hub: a branch, tag or commit."}
    )
    teacher_dtype: str = field(
        default="auto", metadata={"help": "float32, bfloat16, float16, or auto: as it was saved."}
    )


def check_teacher_arguments(args: TeacherArguments) -> None:
    """Refuse what can be refused before anything is loaded.

    Raises:
        ValueError: an unknown dtype, or a path that leads nowhere.
    """
    check_dtype("teacher_dtype", args.teacher_dtype)
    check_model_path("teacher_model_name_or_path", args.teacher_model_name_or_path)


def teacher_of(args: TeacherArguments) -> Model | None:
    """The teacher, nothing of it read; None where there is none.

    Raises:
        ValueError: there is no such model.
    """
    if args.teacher_model_name_or_path is None:
        return None
    return Model(args.teacher_model_name_or_path, args.teacher_revision, args.teacher_dtype)
