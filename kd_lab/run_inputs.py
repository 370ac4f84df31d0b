"""What identifies the rows and the models of a training, so that a resumed run has the same."""

from pathlib import Path
from typing import Any

from datasets import Dataset

from kd_lab.data.packed_rows import PackedRows
from kd_lab.data.shards import MANIFEST
from kd_lab.files import sha256_of_file
from kd_lab.model_identity import model_identity, recorded_identity, trained_base
from kd_lab.models import Model
from kd_lab.student import StudentArguments
from kd_lab.teacher.stored import StoredTeacher


def inputs_of(
    student: StudentArguments,
    train_rows: Dataset,
    teacher_model: Model | None,
    stored: StoredTeacher | None,
) -> dict[str, Any]:
    """What identifies the rows and the models, so that a resumed run has the same.

    Weights are read of the base of LoRA weights only. Any other folder without a marker is known
    by its name alone.
    """
    inputs: dict[str, Any] = {"rows": PackedRows.of(train_rows).sha256()}
    if student.model_name_or_path is not None:
        inputs["start"] = _known_identity(student.model_name_or_path, student.model_revision)
        if student.use_peft:  # its LoRA weights alone are saved, and mean nothing on another base
            inputs["base"] = model_identity(student.model_name_or_path, student.model_revision)
    if teacher_model is not None:
        inputs["teacher"] = _known_identity(teacher_model.name, teacher_model.revision)
    if stored is not None:
        inputs["teacher_cache"] = sha256_of_file(stored.store.folder / MANIFEST)
    return inputs


def _known_identity(name: str, revision: str | None) -> dict[str, str]:
    if Path(name).is_dir() and not trained_base(Path(name)):
        return recorded_identity(Path(name))
    return model_identity(name, revision)
