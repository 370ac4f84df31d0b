"""Distillation at the positions of answers that a model writes during training.

The prefix source is the writer. The teacher gives sequence-level forward KL and SeqKD. The student
gives on-policy training: reverse KL, and all of GKD (Agarwal et al. 2023, arXiv 2306.13649). Or the
student writes a share of the rows, and the dataset or the teacher the rest (GKD's lambda). Once the
answers exist, the loss is that of ``TokenDistilTrainer``: any divergence, at every written
position.

Answers are written before the step's tokens are counted, for all of its micro-batches at once. So
the mean runs over the tokens that are really trained, and generation runs on full batches. With
``rollout_engine="vllm"`` vLLM computes them (vllm_writers.py), from the same weights.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations import is_deepspeed_zero3_enabled
from trl.models.utils import unwrap_model_for_generation

from kd_lab.loss import DistillationLoss, LiveDistribution, Objective, StoredDistribution, Weights
from kd_lab.loss.tiles import precise
from kd_lab.loss.two_divergences import loss_of_two
from kd_lab.rollout.sampling import Completion
from kd_lab.rollout.sampling_arguments import sampling_of
from kd_lab.rollout.transformers_engine import write_answers
from kd_lab.teacher.live import LiveTeacher, processes_apart
from kd_lab.trainers.mixture_arguments import adapted_share, student_divergence_of
from kd_lab.trainers.token_distil import TokenDistilTrainer
from kd_lab.trainers.vllm_writers import VllmWriter, vllm_writer
from kd_lab.vocabulary import IGNORED

Row = dict[str, Any]  # input_ids, labels, prompt_length, as lists and a number


class SeqDistilTrainer(TokenDistilTrainer):
    """alpha · T² · divergence on answers that a model writes, and a share of cross-entropy.

    Cross-entropy is of answers that the dataset or the teacher wrote, never of the student's own:
    a model's own samples teach it nothing at temperature 1 and make it narrower below. So the loss
    is a sum over the step's n trained tokens, divided by n, the student's tokens included:

        1/n Σ_t [ alpha · T² · D_t + (1 - alpha) · c_t · cross-entropy_t ],   c_t = 0 in the
                                                                    student's rows, 1 in all others

    One divisor for both parts leaves each token its weight, however many rows the student draws in
    a step. At the share λ of student's rows cross-entropy has about (1 - λ) of its weight.

    With ``prefixes="teacher"`` and rows of answers that the teacher wrote beforehand
    (``kd-lab generate``) set ``answers_are_stored``: then only the student's share is written.

    With alpha = 0 on the teacher's answers this is SeqKD (Kim and Rush 2016, arXiv 1606.07947).
    Everything else: as in ``TokenDistilTrainer``.
    """

    def __init__(self, *args: Any, answers_are_stored: bool = False, **kwargs: Any) -> None:
        self.answers_are_stored = answers_are_stored
        super().__init__(*args, **kwargs)
        settings = self.args
        self.teacher_writes = settings.point.source.writer == "teacher" and not answers_are_stored
        if self.teacher_writes and not isinstance(self.teacher, LiveTeacher):
            raise ValueError(
                "prefixes: teacher needs a teacher that is a model (teacher_model_name_or_path), "
                "or its stored answers (answers)"
            )
        if settings.written_share and not isinstance(self.teacher, LiveTeacher | None):
            raise ValueError(
                "the student's own answers are new each step, so no stored teacher knows them: "
                "give teacher_model_name_or_path instead of teacher_cache"
            )
        if self.teacher_writes and self.padding_free:
            raise ValueError(
                "packing and padding_free join rows, which the teacher then cannot answer"
            )
        if settings.compile_decode and is_deepspeed_zero3_enabled():
            raise ValueError(
                "compile_decode needs weights that stay in their place, and ZeRO-3 gathers them "
                "anew for each writing: leave it out, or say rollout_engine: vllm"
            )
        if self.is_fsdp_enabled and (self.teacher_writes or settings.written_share):
            self._check_fsdp()
        ends = self.model.generation_config.eos_token_id
        self.end_tokens = {
            self._tokenizer.eos_token_id,
            *(ends if isinstance(ends, list) else [ends] if ends is not None else []),
        }
        self.sampling = sampling_of(settings)
        self._vllm_student: VllmWriter | None = None
        self._vllm_teacher: VllmWriter | None = None
        self._teacher_is_taken = False
        if settings.rollout_engine == "vllm":
            if settings.written_share:
                dtype = torch.bfloat16 if settings.bf16 else self.model.dtype
                self._vllm_student = self._vllm_writer(self.model, dtype)
            if self.teacher_writes:
                assert isinstance(self.teacher, LiveTeacher)
                self._vllm_teacher = self._vllm_writer(self.teacher.model, self.teacher.model.dtype)

    def _check_fsdp(self) -> None:
        if self.args.rollout_engine == "transformers":
            raise ValueError(
                "under FSDP processes that write answers of different lengths would wait for each "
                "other for ever: use DeepSpeed, which gathers the weights first, or "
                "rollout_engine: vllm"
            )
        if self.accelerator.state.fsdp_plugin.fsdp_version != 2:
            raise ValueError(
                "rollout_engine vllm takes weights from FSDP of version 2: say fsdp_version: 2 in "
                "fsdp_config, or use DeepSpeed"
            )

    def _vllm_writer(self, model: Any, dtype: torch.dtype) -> VllmWriter:
        name = str(dtype).removeprefix("torch.")
        return vllm_writer(
            model, self.args, self.train_dataset, name, self._tokenizer, self.accelerator
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        """The step's batches, with answers written anew, and the number of their trained tokens."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = self.write_batches(batches)
        return batches, self._get_num_items_in_batch(batches, device)

    def write_batches(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The same batches with the answers of this step, and a mark at the student's rows."""
        if not self.args.written_share and not self.teacher_writes:
            return batches  # all answers are stored, and maybe the teacher's signal with them
        rows = [row for batch in batches for row in rows_of(batch)]
        repeated = {i for i, row in enumerate(rows) if row.pop("is_repeated")}  # trained elsewhere
        students = [i for i in self._students_rows(len(rows)) if i not in repeated]
        if self.args.written_share:  # a process without such rows helps to gather the weights
            with self._student_writer() as student:
                self._rewrite(rows, students, student)
        if self.teacher_writes:
            with self._teacher_writer() as teacher:
                self._rewrite(rows, sorted({*range(len(rows))} - {*students} - repeated), teacher)
        sizes = [len(batch["input_ids"]) for batch in batches]
        by_student = torch.zeros(len(rows), dtype=torch.bool)
        by_student[students] = True
        return [
            {**self.data_collator(rows[sum(sizes[:i]) :][:n]), "by_student": whose}
            for i, (n, whose) in enumerate(zip(sizes, by_student.split(sizes), strict=True))
        ]

    def _weights(
        self,
        student: LiveDistribution,
        teacher: LiveDistribution | StoredDistribution | None,
        targets: Tensor,
        positions: Tensor,
        trained: Tensor,
        inputs: dict[str, Any],
    ) -> Weights:
        """alpha and 1 - alpha, but no cross-entropy in the student's rows."""
        weights = super()._weights(student, teacher, targets, positions, trained, inputs)
        if weights.cross_entropy == 0 or not self.args.written_share or not self.model.training:
            return weights
        rows = trained // (positions.shape[1] + 1)  # a mask would wait for the GPU
        is_given = ~inputs["by_student"].index_select(0, rows)
        share = is_given.to(precise(targets.device)) * weights.cross_entropy
        return weights._replace(cross_entropy=share)

    def _loss(
        self,
        student: LiveDistribution,
        teacher: LiveDistribution | StoredDistribution | None,
        targets: Tensor,
        objective: Objective,
        positions: Tensor,
        inputs: dict[str, Any],
    ) -> DistillationLoss:
        """With a student_divergence each of the step's rows is compared by its writer's own."""
        of_student = student_divergence_of(self.args)
        if of_student is None or not self.model.training:
            return super()._loss(student, teacher, targets, objective, positions, inputs)
        assert isinstance(teacher, LiveDistribution)
        whose = inputs["by_student"][:, None].expand_as(positions)[positions]
        return loss_of_two(student, teacher, targets, objective, of_student, whose, **self._sizes)

    @property
    def student_share(self) -> float:
        """Share of rows that the student answers now: of the evaluations that the state has."""
        settings = self.args
        losses: dict[float, float] = {}
        for entry in self.state.log_history:
            if "eval_cross_entropy" in entry:  # eval_on_start evaluates a resumed step once more
                losses.setdefault(entry["step"], entry["eval_cross_entropy"])
        return adapted_share(
            settings.point.student_share,
            settings.student_share_step,
            settings.student_share_tolerance,
            list(losses.values()),
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.args.student_share_step and self.model.training:
            logs["student_share"] = self.student_share
        super().log(logs, start_time)

    @contextlib.contextmanager
    def _student_writer(self) -> Iterator[Any]:
        """What writes the student's answers: the model itself, or vLLM with its weights."""
        if self._vllm_student is None:
            with self._for_writing() as student:
                yield student
            return
        with self._whole_student() as student:
            self._vllm_student.take(student)
        yield self._vllm_student

    @contextlib.contextmanager
    def _teacher_writer(self) -> Iterator[Any]:
        """What writes the teacher's answers; its weights never change, so vLLM takes them once."""
        assert isinstance(self.teacher, LiveTeacher)
        if self._vllm_teacher is None or not self._teacher_is_taken:
            with self.teacher.for_writing() as teacher:
                if self._vllm_teacher is None:
                    yield teacher
                    return
                self._vllm_teacher.take(teacher)
                self._teacher_is_taken = True
        yield self._vllm_teacher

    @contextlib.contextmanager
    def _for_writing(self) -> Iterator[Any]:
        """The plain student with whole weights, to write answers with.

        One autocast spans them all: in one for each token every weight would be cast at each token.
        """
        with self._whole_student() as student, self.accelerator.autocast():
            yield student

    @contextlib.contextmanager
    def _whole_student(self) -> Iterator[Any]:
        """The plain student with whole weights, outside mixed precision."""
        wrapped = self.model_wrapped
        writing = unwrap_model_for_generation(wrapped, self.accelerator)
        with (
            keeps_checkpointing(self.accelerator.unwrap_model(wrapped)),
            processes_apart(wrapped),
            writing as student,
        ):
            yield student

    def _students_rows(self, count: int) -> list[int]:
        """Which of the step's rows the student answers: each by a toss of its own."""
        tosses = torch.rand(count, generator=torch.Generator().manual_seed(self._step_seed()))
        return [i for i in range(count) if tosses[i] < self.student_share]

    def _rewrite(self, rows: list[Row], which: list[int], writer: Any) -> None:
        for i, answer in zip(which, self._answers([rows[i] for i in which], writer), strict=True):
            rows[i] = answered_row(rows[i], answer)

    def _answers(self, rows: list[Row], writers: Any) -> list[Completion]:
        prompts = [row["input_ids"][: row["prompt_length"]] for row in rows]
        settings: dict[str, Any] = {
            "eos_token_ids": self.end_tokens,
            "seed": self._step_seed(),
            "vocab_size": self.vocab_size,
        }
        if writers in (self._vllm_student, self._vllm_teacher):
            return writers.write_answers(prompts, self.sampling, **settings)
        return write_answers(
            writers,
            prompts,
            self.sampling,
            batch_size=self.args.rollout_batch_size,
            compiled=self.args.compile_decode,
            **settings,
        )

    def _step_seed(self) -> int:
        """Of this step and process alone, so that a resumed run writes the same answers."""
        numbers = torch.tensor(
            [self.args.seed, self.state.global_step, self.accelerator.process_index]
        )
        return int((numbers * torch.tensor([1_000_003, 8_191, 131_071])).sum()) % 2**31


@contextlib.contextmanager
def keeps_checkpointing(model: nn.Module) -> Iterator[None]:
    """Activation checkpointing comes out as it went in.

    TRL's context switches it off and on again with transformers' defaults, so that the settings in
    ``activation_checkpointing_kwargs`` would be lost.
    """
    names = ("gradient_checkpointing", "_gradient_checkpointing_func")
    before = [
        (module, name, getattr(module, name))
        for module in model.modules()
        for name in names
        if hasattr(module, name)
    ]
    for module, name, value in before:  # each its own, not its class's: a compiled step asks
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def rows_of(batch: dict[str, Any]) -> list[Row]:
    """The rows of a padded batch, without its padding."""
    lengths = batch["attention_mask"].sum(1).tolist()
    repeated = batch.get("is_repeated", [False] * len(lengths))
    return [
        {
            "input_ids": batch["input_ids"][i, :length].tolist(),
            "labels": batch["labels"][i, :length].tolist(),
            "prompt_length": int(batch["prompt_length"][i]),
            "is_repeated": bool(repeated[i]),
        }
        for i, length in enumerate(lengths)
    ]


def answered_row(row: Row, answer: Completion) -> Row:
    """The row's prompt with another answer, which alone is trained."""
    prompt = row["input_ids"][: row["prompt_length"]]
    return {
        "input_ids": [*prompt, *answer.tokens],
        "labels": [IGNORED] * len(prompt) + list(answer.tokens),
        "prompt_length": len(prompt),
    }
