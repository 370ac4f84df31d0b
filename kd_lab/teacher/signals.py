"""What a teacher says of some rows: its hidden states or likeliest tokens, where they are trained.

The backbone runs on batches of rows of like length, so that little of a batch is padding. Of its
hidden states only those are kept from which a trained token is predicted, and only they go through
the head, some positions at a time: [tokens, vocabulary] logits never exist whole.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kd_lab.data.packed_rows import PackedRows
from kd_lab.loss.chunks import LiveDistribution, Projection

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed
    from transformers import PreTrainedModel


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
        advance: told the number of tokens of each batch once it is done.
    Returns:
        [n, H], on the model's device, in its dtype.
    Raises:
        FloatingPointError: the teacher's hidden states are infinite or NaN.
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
                f"the teacher's hidden states are infinite or NaN in {model.dtype}: are its "
                "weights whole, and is teacher_dtype one that it was trained in?"
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
def topk_law(
    hidden: Tensor,
    head: Tensor,
    bias: Tensor | None,
    *,
    k: int,
    temperature: float,
    chunk_size: int,
) -> dict[str, Tensor]:
    """The k likeliest tokens with their log-probabilities, and the log-probability of all others.

    Args:
        hidden: [n, H]
        head, bias: [V, H] and [V] or None, without padding rows: the softmax runs over all V.
        temperature: of the softmax.
        chunk_size: positions whose logits exist at a time.
    Returns:
        on the CPU: ``topk_logp`` float16 [n, k], ``topk_tokens`` [n, k] (uint16 where it suffices,
        else int32), ``topk_tail`` float32 [n] (-inf at k = V). All in nats.
    """
    narrow = torch.uint16 if len(head) <= 2**16 else torch.int32
    parts = []
    projection = Projection(LiveDistribution(hidden, head, bias), len(head))
    for start in range(0, len(hidden), chunk_size):
        logits = projection.logits(slice(start, start + chunk_size)).float()  # [C, V]
        logits.div_(temperature)
        log_sum = logits.logsumexp(-1, keepdim=True)
        top, tokens = logits.topk(k, dim=-1)  # [C, k]
        others = logits.scatter_(-1, tokens, -torch.inf).logsumexp(-1, keepdim=True)
        logp, tail = (top - log_sum).half(), (others - log_sum).squeeze(-1)
        parts.append((logp.cpu(), tokens.cpu().to(narrow), tail.cpu()))
    logp, tokens, tail = (torch.cat(part) for part in zip(*parts, strict=True))
    return {"topk_logp": logp, "topk_tokens": tokens, "topk_tail": tail}
