"""Distillation at the positions of given answers: prefixes from the dataset.

TRL's SFTTrainer does the training. What is ours is the loss of a batch: the student's and the
teacher's last hidden states at the trained positions go through the fused loss, so that no
[tokens, vocabulary] logits exist, and every mean runs over the trained tokens of the whole
optimizer step, whatever it is split into: micro-batches, processes, shards.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput
from trl.models.utils import _ForwardRedirection

from kd_lab.divergences import get_divergence
from kd_lab.loss import (
    DistillationLoss,
    LiveDistribution,
    Objective,
    StoredDistribution,
    Weights,
    distillation_loss,
)
from kd_lab.loss.sharded_head import call_with_head
from kd_lab.loss.tiles import precise
from kd_lab.student import check_lora
from kd_lab.teacher.live import LiveTeacher, states_at
from kd_lab.teacher.stored import StoredTeacher
from kd_lab.trainers.alignment import attach_alignment
from kd_lab.trainers.batches import (
    NOT_FOR_THE_MODEL,
    ROW_COLUMNS,
    collate_rows,
    count_each_row_once,
)
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.figures import LOSSES, SFT_LOSSES, TokenMeans, loss_of
from kd_lab.trainers.given import causal_lm, check_both_models, check_given, row_lengths
from kd_lab.trainers.row_order import LengthGroupedByEpoch, TellEpoch
from kd_lab.trainers.saved_model import SavingTrainer
from kd_lab.vocabulary import IGNORED, shared_vocabulary_size


class TokenDistilTrainer(SavingTrainer):
    """alpha · T² · divergence + (1 - alpha) · cross-entropy on the answers of the dataset.

    Args:
        model: the student.
        teacher: a model, a ``StoredTeacher`` (then ``train_dataset`` is its ``rows()``), or None
            with alpha = 0.
        args: the settings.
        train_dataset, eval_dataset: training rows (kd_lab/data/examples.py): ``input_ids``,
            ``labels`` (-100 where not trained), ``prompt_length``; and ``cache_row`` where the
            teacher is stored.
        processing_class: the student's tokenizer.
        teacher_tokenizer: where it is not the same; the two are compared token by token.
        vocab_size: how many tokens both models have, where it is known already.
        **others: as SFTTrainer takes them: peft_config, callbacks, optimizers.

    Evaluation logs ``eval_cross_entropy`` and, if the teacher is a model, ``eval_divergence``, and
    ``eval_forward_kl`` and ``eval_reverse_kl`` at temperature 1. All are means over trained tokens,
    in nats, and ``eval_loss`` is put together from the first two.
    """

    args: DistilConfig
    model: PreTrainedModel
    answers_are_stored = False  # of SeqDistilTrainer

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: PreTrainedModel | StoredTeacher | None,
        args: DistilConfig,
        *,
        train_dataset: Dataset,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
        vocab_size: int | None = None,
        **others: Any,
    ) -> None:
        check_given(model, teacher, args, train_dataset, eval_dataset, self.answers_are_stored)
        if not args.packing:  # the rows are ready and cut: packing is all SFTTrainer could add
            args.dataset_kwargs = {"skip_prepare_dataset": True}
            args.max_length = None
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **others,
        )
        check_lora(self.model)
        self.data_collator = partial(collate_rows, self.data_collator)
        self.add_callback(TellEpoch(self))
        # SFTTrainer divides by the tokens of the whole step where the model says it can; ours does.
        self.model_accepts_loss_kwargs = True
        self._redirect = _ForwardRedirection()
        self._are_checked = False
        self._unwrapped = cache(self.accelerator.unwrap_model)  # which takes 2 ms each time
        self._means = {"train": TokenMeans(), "eval": TokenMeans()}
        self.divergence = args.get_divergence()
        self.teacher: LiveTeacher | StoredTeacher | None
        if isinstance(teacher, PreTrainedModel):
            other, other_tokenizer = teacher, teacher_tokenizer or processing_class
            self.teacher = LiveTeacher(teacher, self.accelerator)
        else:
            other, other_tokenizer = model, processing_class
            self.teacher = teacher
        self.alignment = attach_alignment(
            args, self.model, teacher, self.is_fsdp_enabled, args.seed
        )
        if vocab_size is None:
            rows = [side.config.get_text_config().vocab_size for side in (model, other)]
            vocab_size = shared_vocabulary_size(processing_class, other_tokenizer, *rows)
        if isinstance(teacher, StoredTeacher):
            vocab_size = min(vocab_size, teacher.manifest["settings"]["vocab_size"])
        self.vocab_size = vocab_size
        args.check_best_figure(LOSSES if isinstance(teacher, PreTrainedModel) else SFT_LOSSES)
        self._sizes = {"vocab_size": self.vocab_size, "chunk_size": args.chunk_size}

    # ---- the loss of one batch

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The batch's part of the mean over the ``num_items_in_batch`` tokens of the whole step."""
        if return_outputs:
            raise ValueError("the fused loss makes no logits to return; compute_metrics needs them")
        student = self._unwrapped(model)
        if not self._are_checked:
            first = inputs["input_ids"][0]
            check_both_models(self.accelerator, model, student, self.teacher, first)
            self._are_checked = True
        # Through the wrapper's own forward, where DDP, ZeRO-3 and FSDP set up their backward pass.
        # FSDP would round what it is given, the number of tokens too.
        student_pass = partial(self._student_pass, num_items=num_items_in_batch)
        loss = self._redirect(model, student, student_pass, student, inputs)
        # FSDP casts what its forward returns to the precision of the run; the figures keep theirs.
        parts = self._parts
        if loss.dtype != parts.loss.dtype:
            loss = loss.to(parts.loss.dtype)
            loss = loss + (parts.loss - loss.detach())
        divisor = parts.num_tokens if num_items_in_batch is None else num_items_in_batch
        wide = precise(loss.device)
        self._means["train" if self.model.training else "eval"].add(
            parts.num_tokens,
            divergence=parts.divergence.to(wide) * divisor,
            cross_entropy=parts.cross_entropy.to(wide) * divisor,
            **self._measured,
        )
        # The processes' gradients are averaged, and this is one part of a sum over all of them.
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            return loss * self.accelerator.num_processes
        return loss

    def _student_pass(
        self, student: Any, inputs: dict[str, Any], num_items: Tensor | int | None
    ) -> Tensor:
        """The loss; its parts, and sums over tokens of what else was measured, stay here."""
        model = causal_lm(student)
        labels = inputs["labels"]  # [B, T]
        positions = labels[:, 1:] != IGNORED  # [B, T - 1]: is token t + 1 trained?
        # A GPU is waited for here, to learn how many they are, and once more when all is computed.
        trained = F.pad(positions, (0, 1)).flatten().nonzero().squeeze(-1)  # [n], of B·T
        targets = labels.flatten()[trained + 1]  # [n]
        divisor = max(len(targets), 1) if num_items is None else num_items
        text = {name: inputs[name] for name in inputs if name not in NOT_FOR_THE_MODEL}
        self._measured: dict[str, Tensor] = {}
        with self._teacher_at(inputs, text, trained) as teacher, self.accelerator.autocast():
            hidden, *of_layers = states_at(model, text, trained, self._layers(0))  # each [n, H]

            def loss(hidden: Tensor, head: Tensor, bias: Tensor | None) -> Tensor:
                own = LiveDistribution(hidden, head, bias)
                weights = self._weights(own, teacher, targets, positions, trained, inputs)
                temperature = self.args.distil_temperature
                objective = Objective(self.divergence, weights, temperature, divisor)
                found = self._loss(own, teacher, targets, objective, positions, inputs)
                self._parts = found._replace(loss=found.loss.detach())
                if teacher is None:  # also where there is no token to say so
                    nothing = torch.full_like(found.divergence, math.nan)
                    self._parts = self._parts._replace(divergence=nothing)
                if not self.model.training and isinstance(self.teacher, LiveTeacher):
                    for name in ("forward_kl", "reverse_kl"):
                        plain = Objective(get_divergence(name), Weights(1.0, 0.0))
                        apart = distillation_loss(own, teacher, targets, plain, **self._sizes)
                        self._measured[name] = apart.divergence
                return found.loss

            found = call_with_head(model.get_output_embeddings(), loss, hidden)
            if not of_layers:
                return found
            assert self.alignment is not None
            distance = self.alignment(of_layers, self._of_teacher).sum()
            self._measured["hidden_distance"] = distance.detach()
            aligned = self.args.alignment_weight * distance / divisor
            self._parts = self._parts._replace(loss=self._parts.loss + aligned.detach())
            return found + aligned

    def _layers(self, side: int) -> Sequence[int]:
        """The student's (0) or the teacher's (1) layers that are aligned; none in evaluations."""
        if self.alignment is None or not self.model.training:
            return ()
        return [pair[side] for pair in self.alignment.layers.items()]

    def _loss(
        self,
        student: LiveDistribution,
        teacher: LiveDistribution | StoredDistribution | None,
        targets: Tensor,
        objective: Objective,
        positions: Tensor,
        inputs: dict[str, Any],
    ) -> DistillationLoss:
        """The objective at the trained positions: here all of them have the same divergence."""
        return distillation_loss(student, teacher, targets, objective, **self._sizes)

    def _weights(
        self,
        student: LiveDistribution,
        teacher: LiveDistribution | StoredDistribution | None,
        targets: Tensor,
        positions: Tensor,
        trained: Tensor,
        inputs: dict[str, Any],
    ) -> Weights:
        """What multiplies divergence and cross-entropy: alpha and 1 - alpha at every position."""
        alpha = 0.0 if teacher is None else self.args.alpha
        return Weights(alpha, 1 - alpha)

    @contextlib.contextmanager
    def _teacher_at(
        self, inputs: dict[str, Any], text: dict[str, Tensor], trained: Tensor
    ) -> Iterator[LiveDistribution | StoredDistribution | None]:
        """The teacher's distributions at the trained positions; None where it is not needed."""
        teacher, is_asked = self.teacher, self.args.point.has_divergence
        if isinstance(teacher, StoredTeacher) and self.model.training and "cache_row" not in inputs:
            raise RuntimeError("a batch has lost its cache_row, the key of the teacher's signal")
        if isinstance(teacher, LiveTeacher) and (is_asked or not self.model.training):
            with teacher.distribution(text, trained, self._layers(1)) as (live, of_layers):
                self._of_teacher = of_layers
                yield live
        elif isinstance(teacher, StoredTeacher) and is_asked and "cache_row" in inputs:
            stored = teacher.distribution(inputs["cache_row"].tolist(), trained.device)
            if "is_repeated" in inputs:  # those rows come last, and none of their tokens is trained
                real = slice(len(trained))
                if isinstance(stored, LiveDistribution):
                    stored = stored._replace(hidden=stored.hidden[real])
                else:
                    stored = stored.at(real)
            yield stored
        else:
            yield None

    # ---- figures, and each row once

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        if not self._means[mode].is_empty:
            for name, mean in self._means[mode].take(self.accelerator).items():
                self._metrics[mode][name] = [mean]
        super().log(logs, start_time)

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, **settings: Any
    ) -> EvalLoopOutput:
        """Transformers' loop, with means over tokens in place of a mean over batches."""
        output = super().evaluation_loop(dataloader, description, *args, **settings)
        prefix = settings.get("metric_key_prefix", "eval")
        figures = self._means["eval"].take(self.accelerator)
        if figures:
            figures["loss"] = loss_of(figures, self.args.alpha, self.args.distil_temperature)
        assert output.metrics is not None
        output.metrics.update({f"{prefix}_{name}": mean for name, mean in figures.items()})
        return output

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **settings: Any
    ) -> Any:
        count_each_row_once(inputs, self.accelerator)
        return super().prediction_step(model, inputs, *args, **settings)

    # ---- a step that goes wrong stops the run before it can spoil the weights

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        self._micro_batch = 0
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and self.accelerator.gradient_state.end_of_dataloader:
            count_each_row_once(batches[-1], self.accelerator)
            num_items = self._get_num_items_in_batch(batches, device)
        return batches, num_items

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self._micro_batch += 1
        try:
            return super().training_step(*args, **kwargs)
        except FloatingPointError as error:
            raise FloatingPointError(self._stopped(str(error))) from error

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not math.isfinite(norm):
            raise FloatingPointError(self._stopped(f"the gradient's norm is {float(norm)}"))
        return norm

    def _stopped(self, why: str) -> str:
        where = f"step {self.state.global_step + 1}, micro-batch {self._micro_batch}"
        mend = "try a lower learning_rate or max_grad_norm and resume"
        if self.state.global_step == 0 or "teacher" in why:
            whose = "teacher" if "teacher" in why else "student"
            mend = f"no step has made it so: look at its rows, and the {whose}'s weights and dtype"
        return f"{where}: {why}; the run is stopped and its checkpoints are as they were: {mend}"

    # ---- rows: order and columns

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """Batches of like lengths, in an order that depends on seed and epoch alone.

        Transformers' own takes it from the global random state, which a resumed run does not have.
        """
        rows = self.train_dataset if train_dataset is None else train_dataset
        if rows is None or self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(rows)
        self._sampler = LengthGroupedByEpoch(
            # the rows of an optimizer step, so that it has the same ones however it is split
            self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.accelerator.num_processes,
            lengths=row_lengths(rows).to_pylist(),
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )
        return self._sampler

    def _set_signature_columns_if_needed(self) -> None:
        columns: Any = ["input_ids", "labels", "seq_lengths", *ROW_COLUMNS]
        self._signature_columns = columns
