"""The hidden states from which models predict the trained tokens of rows, some rows at a time.

All that is measured of models' laws starts from these: whoever needs [tokens, vocabulary] makes it
of them, a few positions at a time.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd_lab.data.packed_rows import PackedRows
from kd_lab.teacher.plain_logits import check_plain_logits
from kd_lab.teacher.signals import trained_hidden_states

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel

TOKENS_PER_BATCH = 8192  # of a forward pass
ROWS_AT_A_TIME = 64  # whose hidden states exist together


class TrainedStates(NamedTuple):
    """The N trained tokens of some rows, in order; tensors are on the first model's device."""

    row: Tensor  # whose token each is, [N]
    tokens: Tensor  # [N]
    hidden: tuple[Tensor, ...]  # of each model, the states that predict them, [N, H], on its own


def answered_rows(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> PackedRows:
    """Rows of a prompt and its answer, of which all of the answer's tokens are trained.

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
        ValueError: a row of which no token is trained, or a model that scales or caps its logits.
        FloatingPointError: a model's hidden states are not finite.
    """
    empty = np.flatnonzero(rows.positions_per_row() == 0)
    if len(empty):
        raise ValueError(f"row {empty[0]} has no token to predict")
    for model in models:
        check_plain_logits(model, torch.from_numpy(rows.input_ids[:8]).long())
    device = models[0].device
    for start in range(0, len(rows.lengths), ROWS_AT_A_TIME):
        some = rows.select(range(start, min(start + ROWS_AT_A_TIME, len(rows.lengths))))
        whose = start + np.repeat(np.arange(len(some.lengths)), some.positions_per_row())
        tokens = some.input_ids[1:][some.predicts_trained()[:-1]]
        yield TrainedStates(
            torch.from_numpy(whose).to(device),
            torch.from_numpy(tokens).long().to(device),
            tuple(
                trained_hidden_states(model, some, tokens_per_batch, lambda tokens: None)
                for model in models
            ),
        )
