"""What a trainer is given, checked before it takes a step: settings, rows, and both models.

The models' numbers are compared at the first batch, in the forward pass of whatever wraps them: so
the same lines serve one process, DDP, ZeRO-3 and FSDP2.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor, nn

from kd_lab.loss.plain_logits import check_plain_head, check_plain_logits
from kd_lab.positions import check_positions
from kd_lab.teacher.live import LiveTeacher, processes_apart
from kd_lab.teacher.stored import StoredTeacher
from kd_lab.trainers.distil_config import NO_FLOAT16, DistilConfig

if TYPE_CHECKING:  # they take seconds to import
    from accelerate import Accelerator
    from transformers import PreTrainedModel


def check_given(
    model: "PreTrainedModel",
    teacher: "PreTrainedModel | StoredTeacher | None",
    args: DistilConfig,
    train_dataset: Dataset,
    eval_dataset: Dataset | None,
    answers_are_stored: bool,
) -> None:
    """Refuse models, rows and settings that do not go together. Arguments as a trainer's.

    Raises:
        ValueError: names what is wrong, and the change to make.
    """
    if teacher is None and args.alpha != 0:
        raise ValueError(
            f"alpha is {args.alpha}, so a teacher is needed: give teacher_model_name_or_path "
            "or teacher_cache, or set alpha to 0"
        )
    check_rows("train_dataset", train_dataset)
    for name, rows in _by_name(eval_dataset).items():
        check_rows(name, rows)
    if isinstance(teacher, StoredTeacher) and (
        args.packing or "cache_row" not in train_dataset.column_names
    ):
        raise ValueError(
            "a stored teacher knows its own rows alone, one by one: train on its rows(), with "
            "packing false"
        )
    if model.dtype == torch.float16:
        raise ValueError(
            f"the student's dtype is float16, and {NO_FLOAT16}: say --dtype float32 or bfloat16"
        )
    readers = {"the student": model}
    if teacher is not None and not isinstance(teacher, StoredTeacher):
        readers["the teacher"] = teacher
    for reader in readers.values():
        check_plain_head(reader)
    by_teacher = args.point.source.writer == "teacher" and not answers_are_stored
    if args.written_share or by_teacher:
        check_rows("train_dataset", train_dataset, "prompt_length")
    configs = {name: reader.config for name, reader in readers.items()}
    check_lengths(configs, args, train_dataset, eval_dataset, answers_are_stored)


def check_rows(name: str, rows: Any, *more: str) -> None:
    """Refuse rows that are no training rows: of them, TRL would train the prompts as well.

    Args:
        name: of the argument, for the message.
        more: columns that are needed besides ``input_ids`` and ``labels``.
    Raises:
        ValueError: no Dataset, an empty one, or one without a column.
    """
    if not isinstance(rows, Dataset):
        raise ValueError(f"{name} must be a datasets.Dataset of rows, not {type(rows).__name__}")
    lacking = [column for column in ("input_ids", "labels", *more) if column not in rows.features]
    if lacking:
        raise ValueError(
            f"{name} has no column {lacking[0]}: give training rows, as "
            "kd_lab.data.examples.training_examples makes them"
        )
    if not len(rows):
        raise ValueError(f"{name} has no rows")


def check_lengths(
    models: Mapping[str, Any],
    args: DistilConfig,
    train_rows: Dataset,
    eval_rows: Dataset | dict[str, Dataset] | None,
    answers_are_stored: bool,
) -> None:
    """Refuse rows, and answers to be written, for which a model has no positions.

    Args:
        models: each model's configuration by its name; no weights are needed.
        answers_are_stored: as of ``SeqDistilTrainer``.
    Raises:
        ValueError: as ``check_positions``.
    """
    lengths, written, longest = row_lengths(train_rows), args.written_share, {}
    by_teacher = args.point.source.writer == "teacher" and not answers_are_stored
    if not by_teacher and written < 1:
        longest["the longest training row"] = pc.max(lengths).as_py()
        if args.packing and args.packing_strategy == "wrapped":  # one row, cut anywhere
            longest["a packed row"] = args.max_length or pc.sum(lengths).as_py()
    for rows in _by_name(eval_rows).values():
        row = pc.max(row_lengths(rows)).as_py()
        longest["the longest test row"] = max(longest.get("the longest test row", 0), row)
    if by_teacher or written:
        prompt = pc.max(_column(train_rows, "prompt_length")).as_py()
    for name, config in models.items():
        for what, tokens in longest.items():
            check_positions(name, config, what, tokens, "max_length")
        if by_teacher or written:
            lower = "max_new_tokens or max_length"
            check_positions(name, config, "the longest prompt", prompt, lower, args.max_new_tokens)


def row_lengths(rows: Dataset) -> pa.ChunkedArray:
    """The tokens of each row."""
    return pc.list_value_length(_column(rows, "input_ids"))


def _column(rows: Dataset, name: str) -> pa.ChunkedArray:
    """A column as it is stored: row by row, datasets takes 17 µs for each."""
    table: Any = rows.select_columns(name).with_format("arrow")[:]
    return table[name]


def _by_name(eval_dataset: Any) -> dict[str, Any]:
    """The rows of an evaluation; transformers takes several by name as well."""
    if isinstance(eval_dataset, dict):
        return {f"eval_dataset[{name!r}]": rows for name, rows in eval_dataset.items()}
    return {} if eval_dataset is None else {"eval_dataset": eval_dataset}


def check_both_models(
    accelerator: "Accelerator",
    wrapped: nn.Module,
    student: Any,
    teacher: LiveTeacher | StoredTeacher | None,
    input_ids: Tensor,
) -> None:
    """Ask student and teacher about a few tokens [T]; every process calls it.

    Raises:
        ValueError: as ``check_plain_logits``.
    """
    from trl.models.utils import _ForwardRedirection

    def check_student() -> Tensor:
        with accelerator.autocast():
            check_plain_logits(causal_lm(student), input_ids)
        return input_ids

    with processes_apart(wrapped):
        _ForwardRedirection()(wrapped, student, check_student)
    if isinstance(teacher, LiveTeacher):
        teacher.check_plain_logits(input_ids)


def causal_lm(student: Any) -> Any:
    """The language model itself, where it carries an adapter."""
    return student.get_base_model() if hasattr(student, "peft_config") else student
