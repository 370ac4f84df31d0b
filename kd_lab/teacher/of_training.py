"""What a training takes of its teacher: a model, stored answers, or a stored signal.

Each is compared with the student's tokenizer, and with the teacher, before a model loads.
"""

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from kd_lab.data.shards import ShardStore
from kd_lab.model_identity import check_same_teacher, check_same_template, tokenizer_hash
from kd_lab.models import Model
from kd_lab.teacher.arguments import TeacherArguments
from kd_lab.teacher.stored import StoredTeacher


@dataclass
class TrainTeacherArguments(TeacherArguments):
    """The teacher: a model in memory, or its stored signal or answers."""

    teacher_cache: str | None = field(
        default=None,
        metadata={"help": "A folder of kd-lab cache: rows and the teacher's signal."},
    )
    answers: str | None = field(
        default=None,
        metadata={"help": "A folder of kd-lab generate: the teacher's stored answers."},
    )


def stored_rows(teacher: TrainTeacherArguments) -> bool:
    """Whether a folder gives the rows to train on, instead of the conversations."""
    return teacher.answers is not None or teacher.teacher_cache is not None


def check_answers(
    teacher: TrainTeacherArguments, tokenizer: PreTrainedTokenizerBase, teacher_model: Model | None
) -> None:
    """Compare stored answers with the student's tokenizer and with the teacher.

    Raises:
        ValueError: another teacher wrote the answers, or they have another tokenizer's ids, or the
            student another chat template.
    """
    if teacher.answers is None:
        return
    settings = ShardStore.open(teacher.answers, "answers", verify=False).settings
    if settings["tokenizer_sha256"] != tokenizer_hash(tokenizer):
        raise ValueError(
            f"answers: {teacher.answers} was written with another tokenizer than the student's"
        )
    check_same_template(teacher.answers, settings.get("chat_template_sha256"), tokenizer)
    if teacher_model is not None:
        check_same_teacher(settings["teacher"], teacher_model.identity)


def load_stored_teacher(
    teacher: TrainTeacherArguments,
    tokenizer: PreTrainedTokenizerBase,
    teacher_model: Model | None,
    *,
    temperature: float,
    writer: str,
    verify: bool,
) -> StoredTeacher | None:
    """The cache of a training, or None if it has none.

    Args:
        temperature: of the divergence.
        writer: of the answers to train on: dataset or teacher.
        verify: whether this process reads the whole cache against its checksums. One of a machine
            is enough, and that takes a while.
    Raises:
        ValueError: it is of another teacher, tokenizer, temperature or writer.
    """
    if teacher.teacher_cache is None:
        return None
    stored = StoredTeacher(teacher.teacher_cache, verify=verify)
    stored.check_fits(tokenizer, temperature)
    wrote = "teacher" if "answers" in stored.store.settings["source"] else "dataset"
    if wrote != writer:
        raise ValueError(
            f"{teacher.teacher_cache} is of answers that the {wrote} wrote: set prefixes to "
            f"{wrote}, not {writer}"
        )
    if teacher_model is not None:
        check_same_teacher(stored.store.settings["teacher"], teacher_model.identity)
    return stored
