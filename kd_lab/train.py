"""``kd-lab train``: from a recipe to a checkpoint.

All checks come before a model loads: paths, settings that exclude one another, two tokenizers that
differ, stored answers of another teacher. Then come the rows, the models, the trainer of the prefix
source, and a run folder that records how the student was made.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from kd_lab.data.conversations import DataArguments, check_data_arguments
from kd_lab.data.examples import NoRows, say_rows_without_end
from kd_lab.data.packed_rows import PackedRows
from kd_lab.data.row_store import RowStore
from kd_lab.data.trained_turns import NO_ANSWER
from kd_lab.files import being_written, check_room, only_one_at_work, raise_if_full
from kd_lab.hub import check_model_at_hand
from kd_lab.models import Model
from kd_lab.next_step import check_folder, check_model_path
from kd_lab.rollout.sampling_arguments import check_compiled
from kd_lab.run_inputs import inputs_of
from kd_lab.runs.resuming import check_no_other_files, check_same_inputs, is_finished, start_run
from kd_lab.runs.run_files import resolved_config
from kd_lab.runs.run_folder import MarkWholeCheckpoints, MetricsWriter, finish_run, record_run
from kd_lab.student import (
    StudentArguments,
    check_student,
    head_rows,
    load_student,
    load_tokenizer,
    loaded_dtype,
    lora_config,
    student_config,
)
from kd_lab.teacher.arguments import check_teacher_arguments, teacher_of
from kd_lab.teacher.of_training import (
    TrainTeacherArguments,
    check_answers,
    load_stored_teacher,
    stored_rows,
)
from kd_lab.teacher.stored import StoredTeacher, answers_end_tokens, stored_answers, with_true_data
from kd_lab.trainers.alignment import check_aligned_models
from kd_lab.trainers.at_hand import check_at_hand, least_bytes
from kd_lab.trainers.distil_config import NO_FLOAT16, DistilConfig, check_one_gpu
from kd_lab.trainers.given import check_lengths
from kd_lab.trainers.lora import save_merged
from kd_lab.trainers.token_distil import TokenDistilTrainer
from kd_lab.vocabulary import shared_vocabulary_size

WITH_RESUME = "give the same command with --resume_from_checkpoint true"
ARGUMENTS = (StudentArguments, TrainTeacherArguments, DataArguments, DistilConfig)


def run(
    student: StudentArguments,
    teacher: TrainTeacherArguments,
    data: DataArguments,
    config: DistilConfig,
) -> None:
    """Train, and leave a run folder at ``config.output_dir``.

    Raises:
        ValueError, OSError: a fault of the arguments, in one line; nothing was trained.
        FloatingPointError: the loss, a gradient or a weight was not finite; the checkpoints are
            kept.
    """
    check_one_gpu(config.n_gpu)
    check_arguments(student, teacher, data, config)
    check_model_at_hand("model_name_or_path", student.model_name_or_path, student.model_revision)
    check_model_at_hand(
        "teacher_model_name_or_path", teacher.teacher_model_name_or_path, teacher.teacher_revision
    )
    check_at_hand(config)
    folder = Path(config.output_dir or "")
    check_no_other_files(folder)
    with only_one_at_work(folder):
        _train(student, teacher, data, config, folder)


def _train(
    student: StudentArguments,
    teacher: TrainTeacherArguments,
    data: DataArguments,
    config: DistilConfig,
    folder: Path,
) -> None:
    settings = with_true_data(resolved_config(student, teacher, data, config))
    resume_from = start_run(folder, config.resume_from_checkpoint, settings)
    tokenizer = load_tokenizer(student, config.eos_token, config.pad_token)
    size = check_student(student, tokenizer)
    if not student.use_peft:
        dtype = str(loaded_dtype(student)).removeprefix("torch.")
        check_room(folder, least_bytes(config, size, dtype), "the trained model")
    teacher_model = teacher_of(teacher)
    vocab_size = None  # without a teacher
    if teacher_model is not None:
        teacher_model.check()
        vocab_size = shared_vocabulary_size(
            tokenizer, teacher_model.tokenizer, head_rows(student), teacher_model.head_rows
        )
    check_answers(teacher, tokenizer, teacher_model)
    stored = load_stored_teacher(
        teacher,
        tokenizer,
        teacher_model,
        temperature=config.distil_temperature,
        writer=config.point.source.writer or "dataset",
        verify=config.local_process_index == 0,
    )
    train_rows, test_rows = load_rows(teacher, data, config, tokenizer, stored)
    check_a_step_is_made(train_rows, config)
    inputs = inputs_of(student, train_rows, teacher_model, stored)
    check_same_inputs(folder if resume_from is None else resume_from.parent, inputs)
    if resume_from is None and is_finished(folder, settings):
        if config.process_index == 0:
            print(f"{folder} is finished: there is nothing to do")
        _leave_together()
        return
    readers = {student.model_name_or_path or "model_shape": student_config(student)}
    if teacher_model is not None and stored is None:
        readers[teacher_model.name] = theirs = teacher_model.config
        check_aligned_models(config, student_config(student), theirs, student.keep_every)
    check_lengths(readers, config, train_rows, test_rows, stored_rows(teacher))

    set_seed(config.seed)  # of the student's new weights, where it has any
    trainer = make_trainer(
        load_student(student, tokenizer),
        stored or load_teacher(teacher, config, teacher_model),
        config,
        answers_are_stored=stored_rows(teacher),
        train_dataset=train_rows,
        eval_dataset=test_rows,
        processing_class=tokenizer,
        vocab_size=vocab_size,
        peft_config=lora_config(student),
        callbacks=[MetricsWriter(folder), MarkWholeCheckpoints()],
    )
    record_run(folder, settings, inputs)
    try:
        trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
        if trainer.state.global_step == 0:
            raise ValueError(
                f"{folder}: no step was made, so nothing is saved: are there any rows?"
            )
        trainer.check_weights()
        if student.merge_lora:
            save_merged(trainer, folder)
        else:
            trainer.save_model(str(folder))
        finish_run(folder)
    except Exception as error:  # of torch, safetensors and the system
        raise_if_full(error, being_written(error, folder), WITH_RESUME)
        raise
    if trainer.accelerator.is_main_process:
        print(f"wrote {folder}: the student, metrics.jsonl, config.yaml, README.md")
    _leave_together()


def _leave_together() -> None:
    """A peer that still talks must not find this process gone."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def check_arguments(
    student: StudentArguments,
    teacher: TrainTeacherArguments,
    data: DataArguments,
    config: DistilConfig,
) -> None:
    """Refuse settings that exclude one another. Reads no model, tokenizer or conversation.

    Raises:
        ValueError: names the keys, and the change to make.
    """
    check_model_path("model_name_or_path", student.model_name_or_path)
    check_teacher_arguments(teacher)
    check_folder("teacher_cache", teacher.teacher_cache, "cache")
    check_folder("answers", teacher.answers, "generate")
    check_data_arguments(data)
    if student.dtype == "float16":
        raise ValueError(f"dtype is float16, and {NO_FLOAT16}: say --dtype float32 or bfloat16")
    if student.merge_lora and config.push_to_hub:
        raise ValueError("push_to_hub uploads no merged model: say --merge_lora false, or push it")
    has_model = teacher.teacher_model_name_or_path is not None
    if config.policy_gradient and not has_model:  # also where alpha is 0
        raise ValueError(
            "policy_gradient is true, so a live teacher is needed: give teacher_model_name_or_path"
        )
    if config.alpha > 0 and not has_model and teacher.teacher_cache is None:
        raise ValueError(
            f"alpha is {config.alpha}, so a teacher is needed: give teacher_model_name_or_path or "
            "teacher_cache, or set alpha to 0"
        )
    if config.alignment_weight and teacher.teacher_cache is not None:
        raise ValueError(
            "alignment_weight needs a live teacher's hidden states, which teacher_cache does not "
            "keep: give teacher_model_name_or_path alone"
        )
    if teacher.teacher_cache is not None and teacher.answers is not None:
        raise ValueError(
            "teacher_cache holds its own rows: cache the answers (kd-lab cache --answers DIR) and "
            "leave answers out here"
        )
    writer = config.point.source.writer
    if teacher.answers is not None and writer != "teacher":
        raise ValueError(
            f"answers are the teacher's prefixes, and prefixes is {config.prefixes}: set it to "
            "teacher"
        )
    if writer == "teacher" and not has_model and not stored_rows(teacher):
        raise ValueError(
            f"prefixes: {config.prefixes} needs teacher_model_name_or_path, or its answers: "
            "answers, or a teacher_cache of them"
        )
    config.check_writers(stored_rows(teacher), student.use_dora)
    teacher_writes = config.teacher_mix if config.policy_gradient else writer == "teacher"
    if config.compile_decode and config.written_share:
        check_compiled("attn_implementation", student.attn_implementation)
    if config.compile_decode and teacher_writes and not stored_rows(teacher):
        check_compiled("teacher_attn_implementation", teacher.teacher_attn_implementation)
    if config.written_share and teacher.teacher_cache is not None:
        raise ValueError(
            "the student's own answers are new each step, so teacher_cache does not know them: "
            "give teacher_model_name_or_path instead"
        )


def load_rows(
    teacher: TrainTeacherArguments,
    data: DataArguments,
    config: DistilConfig,
    tokenizer: PreTrainedTokenizerBase,
    stored: StoredTeacher | None,
) -> tuple[Dataset, Dataset | None]:
    """The training rows, and the test rows if ``eval_strategy`` needs them.

    If a model writes all answers during training, rows without an answer are enough.

    Raises:
        ValueError: no row is left, answers are missing, or a prompt is in both.
    """
    from_data = () if stored_rows(teacher) else ("train",)
    tested = () if config.eval_strategy == "no" else ("test",)
    rows = RowStore(data, tokenizer, (*from_data, *tested))
    if stored is not None:
        train = stored.rows()
        ends = stored.end_tokens(tokenizer)
        say_rows_without_end(train, ends, f"rows of {teacher.teacher_cache}")
    elif teacher.answers is not None:
        train = stored_answers(teacher.answers, verify=config.local_process_index == 0)
        say_rows_without_end(
            train, answers_end_tokens(teacher.answers), f"rows of {teacher.answers}"
        )
    else:
        written = all_answers_are_written(config)
        try:
            train = rows.training_rows("train", config.max_length, prompts_suffice=written).rows
        except NoRows as error:
            raise ValueError(f"{error}{_no_answers(error, config)}") from error
    if config.eval_strategy == "no":
        return train, None
    try:
        test = rows.training_rows("test", config.max_length).rows
    except NoRows as error:
        if NO_ANSWER not in error.dropped:
            raise
        raise ValueError(
            f"{error}: evaluation needs answers to compare with; give a --test_dataset that has "
            "them, or set eval_strategy to no"
        ) from error
    both = _prompts(train) & _prompts(test)
    if both:
        first = np.frombuffer(min(both), np.int32)
        raise ValueError(
            f"{len(both):,} prompts are both trained and tested on, the first being "
            f"{tokenizer.decode(first.tolist())!r}: give another dataset or "
            "test_dataset, or the same test_share to kd-lab generate and cache"
        )
    return train, test


def check_a_step_is_made(train_rows: Dataset, config: DistilConfig) -> None:
    """Refuse a batch that ``dataloader_drop_last`` drops, as larger than all rows.

    Raises:
        ValueError: names both.
    """
    batch = config.per_device_train_batch_size * config.world_size
    if config.dataloader_drop_last and len(train_rows) < batch:
        raise ValueError(
            f"dataloader_drop_last leaves out all of {len(train_rows):,} rows, since a batch of "
            f"all processes has {batch:,}: lower per_device_train_batch_size, or leave it out"
        )


def all_answers_are_written(config: DistilConfig) -> bool:
    """Whether every answer is written during training, without a folder of rows."""
    return config.written_share == 1 or config.point.source.writer is not None


def load_teacher(
    teacher: TrainTeacherArguments, config: DistilConfig, teacher_model: Model | None
) -> PreTrainedModel | None:
    """The teacher in its own dtype; None if there is none, or only its answers are needed."""
    only_answers = not config.point.has_divergence and teacher.answers is not None
    if teacher_model is None or (only_answers and config.eval_strategy == "no"):
        return None
    return teacher_model.load()


def make_trainer(
    student: PreTrainedModel,
    teacher: PreTrainedModel | StoredTeacher | None,
    config: DistilConfig,
    *,
    answers_are_stored: bool = False,
    **others: Any,
) -> TokenDistilTrainer:
    """The trainer of a point of the map."""
    point = config.point
    if point.source.writer == "teacher":
        others["answers_are_stored"] = answers_are_stored
    return point.trainer_class(student, teacher, config, **others)


def _no_answers(error: NoRows, config: DistilConfig) -> str:
    """Advice for conversations without answers."""
    if NO_ANSWER not in error.dropped:
        return ""
    whose = "all rows" if not config.written_share else "the rows that the student does not write"
    return (
        f": {whose} take their answers from the dataset; set prefixes to student or teacher, or "
        "write the answers first (kd-lab generate)"
    )


def _prompts(rows: Dataset) -> set[bytes]:
    """The prompts' ids, as the bytes of int32."""
    packed = PackedRows.of(rows)
    starts = packed.ends()[:-1]
    ends = starts + packed.prompt_lengths
    return {packed.input_ids[start:end].tobytes() for start, end in zip(starts, ends, strict=True)}
