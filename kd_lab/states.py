"""Hidden states and distributions at the trained tokens of rows, a block at a time.

The backbone runs on batches of rows of like length, so that little of a batch is padding. We keep
only the hidden states that predict a trained token. Only these go through the LM head, a block of
positions at a time: [tokens, vocabulary] logits never exist whole.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kd_lab.data.packed_rows import PackedRows
from kd_lab.loss.chunks import LiveDistribution, Projection
from kd_lab.loss.plain_logits import TOKENS, check_plain_logits
from kd_lab.positions import check_positions

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel

TOKENS_PER_BATCH = 8192  # of a forward pass
ROWS_AT_A_TIME = 64  # whose hidden states exist together
LOGIT_ENTRIES = 2**22  # of [positions, vocabulary] that exist together, of each model


class TrainedStates(NamedTuple):
    """The N trained tokens of rows, in order; tensors are on the first model's device."""

    row: Tensor  # whose token each is, [N]
    tokens: Tensor  # [N]
    hidden: tuple[Tensor, ...]  # of each model, the states that predict them, [N, H], on its own


class BothDistributions(NamedTuple):
    """Two models at C trained tokens, in order; tensors are on the student's device."""

    row: Tensor  # whose token each is, [C]
    tokens: Tensor  # [C]
    teacher_logp: Tensor  # log-probabilities of the next token, [C, V]
    student_logp: Tensor  # [C, V]


def answered_rows(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> PackedRows:
    """Rows of a prompt and its answer; all tokens of the answer are trained.

    Args:
        prompts, answers: token ids, as many of each; none empty.
    """
    prompt_lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    answer_lengths = np.array([len(answer) for answer in answers], np.int32)
    parts = np.stack([prompt_lengths, answer_lengths], axis=1).ravel()  # prompt, answer, prompt ...
    return PackedRows(
        input_ids=np.array(
            [
                token
                for prompt, answer in zip(prompts, answers, strict=True)
                for token in (*prompt, *answer)
            ],
            np.int32,
        ),
        trained=np.repeat(np.arange(len(parts)) % 2 == 1, parts),
        lengths=prompt_lengths + answer_lengths,
        prompt_lengths=prompt_lengths,
    )


@torch.inference_mode()
def trained_hidden_states(
    model: "PreTrainedModel",
    rows: PackedRows,
    tokens_per_batch: int,
    advance: Callable[[int], object],
) -> Tensor:
    """The last hidden states at every position whose next token is trained, row by row, in order.

    Args:
        model: frozen, in eval mode.
        tokens_per_batch: of a forward pass, padding included; a longer row gets a pass of its own.
        advance: called with the number of tokens of each batch once it is done.
    Returns:
        [n, H], on the model's device, in its dtype.
    Raises:
        FloatingPointError: the hidden states are infinite or NaN.
    """
    lengths = rows.lengths.tolist()
    input_ids = torch.from_numpy(rows.input_ids).long().split(lengths)
    positions = torch.from_numpy(rows.predicts_trained()).split(lengths)
    states: dict[int, Tensor] = {}
    for batch in length_batches(lengths, tokens_per_batch):
        ids = pad_sequence([input_ids[row] for row in batch], batch_first=True)  # on the right
        is_token = pad_sequence([torch.ones(lengths[row]) for row in batch], batch_first=True)
        hidden = model.get_decoder()(
            input_ids=ids.to(model.device),
            attention_mask=is_token.long().to(model.device),
            use_cache=False,
        ).last_hidden_state  # [B, T, H]
        for row, of_row in zip(batch, hidden, strict=True):
            states[row] = of_row[: lengths[row]][positions[row].to(model.device)]
        if not hidden.isfinite().all():
            raise FloatingPointError(
                f"the hidden states of {model.config.name_or_path or type(model).__name__} are "
                f"infinite or NaN in {model.dtype}: are its weights whole, and is this dtype one "
                "that it was trained in?"
            )
        advance(sum(lengths[row] for row in batch))
    return torch.cat([states[row] for row in range(len(lengths))])


def length_batches(lengths: list[int], tokens_per_batch: int) -> list[list[int]]:
    """Rows in batches of like length, the longest first (if memory is short, it is so at once)."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > tokens_per_batch:
            batches.append([])
        batches[-1].append(row)
    return batches


@torch.inference_mode()
def trained_states(
    models: Sequence["PreTrainedModel"],
    rows: PackedRows,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> Iterator[TrainedStates]:
    """Every model's states at the same trained tokens of the same rows.

    Args:
        models: causal language models in eval mode.
        tokens_per_batch: of a forward pass, padding included.
    Raises:
        ValueError: a row without a trained token, a model that has too few positions for a row,
            or one whose logits are not its hidden states times its head.
        FloatingPointError: a model's hidden states are not finite.
    """
    empty = np.flatnonzero(rows.positions_per_row() == 0)
    if len(empty):
        raise ValueError(f"row {empty[0]} has no token to predict")
    for model in models:
        name, longest = model.config.name_or_path or "", int(rows.lengths.max())
        check_positions(name, model.config, "the longest row", longest, "max_length")
        check_plain_logits(model, torch.from_numpy(rows.input_ids[:TOKENS]).long())
    device = models[0].device
    for start in range(0, len(rows.lengths), ROWS_AT_A_TIME):
        part = rows.select(range(start, min(start + ROWS_AT_A_TIME, len(rows.lengths))))
        whose = start + np.repeat(np.arange(len(part.lengths)), part.positions_per_row())
        tokens = part.input_ids[1:][part.predicts_trained()[:-1]]
        yield TrainedStates(
            torch.from_numpy(whose).to(device),
            torch.from_numpy(tokens).long().to(device),
            tuple(
                trained_hidden_states(model, part, tokens_per_batch, lambda tokens: None)
                for model in models
            ),
        )


@torch.inference_mode()
def both_distributions(
    student: "PreTrainedModel",
    teacher: "PreTrainedModel",
    rows: PackedRows,
    *,
    vocab_size: int,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    dtype: torch.dtype = torch.float32,
) -> Iterator[BothDistributions]:
    """Both models' next-token distributions at every trained token of rows, a block at a time.

    Args:
        student, teacher: in eval mode; both see the same tokens.
        vocab_size: V, the vocabulary rows of both LM heads that are real tokens; both softmaxes run
            over these (``kd_lab.vocabulary.shared_vocabulary_size``).
        tokens_per_batch: of a forward pass through a backbone.
        dtype: of the softmaxes; a model in float64 keeps it.
    Raises:
        ValueError: rows that do not fit (``trained_states``), or a token outside the vocabulary.
    """
    heads = [model.get_output_embeddings() for model in (student, teacher)]
    size = max(1, LOGIT_ENTRIES // vocab_size)
    for batch in trained_states((student, teacher), rows, tokens_per_batch):
        if int(batch.tokens.max()) >= vocab_size:
            raise ValueError(
                f"token {int(batch.tokens.max())} is outside the {vocab_size} that both models have"
            )
        sides = [
            Projection(LiveDistribution(hidden, head.weight, head.bias), vocab_size)
            for hidden, head in zip(batch.hidden, heads, strict=True)
        ]
        for start in range(0, len(batch.tokens), size):
            block = slice(start, start + size)
            q, p = (_log_softmax(side.logits(block), dtype) for side in sides)
            yield BothDistributions(batch.row[block], batch.tokens[block], p.to(q.device), q)


def _log_softmax(logits: Tensor, dtype: torch.dtype) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, dtype)).log_softmax(-1)
