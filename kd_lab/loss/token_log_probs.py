"""log p of given tokens straight from hidden states, without [tokens, vocabulary] logits."""

import math

import torch
from torch import Tensor

from kd_lab.loss.chunks import CHUNK_SIZE, LiveDistribution, Projection, check_tokens


@torch.no_grad()
def token_log_probs(
    hidden: Tensor,
    head: Tensor,
    tokens: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    chunk_size: int = CHUNK_SIZE,
    vocab_size: int | None = None,
) -> Tensor:
    """The log-probability of one token at each position; carries no gradient.

    Args:
        hidden: a model's last hidden states, [N, H].
        head: [V, H].
        tokens: [N]; position i of ``hidden`` predicts ``tokens[i]``.
        bias: [V].
        temperature: > 0; the distribution is softmax(logits / temperature).
        chunk_size: tokens projected at a time; memory grows with it, the result does not change.
        vocab_size: rows that are real tokens (``kd_lab.vocabulary``); the softmax runs over these.
            Default: all.
    Returns:
        nats, [N], float64 for float64 inputs and float32 otherwise.
    Raises:
        ValueError: shapes, tokens or settings that do not fit.
    """
    rows = len(head) if vocab_size is None else vocab_size
    if tokens.dim() != 1 or list(hidden.shape) != [len(tokens), head.shape[-1]]:
        raise ValueError(
            f"hidden is {list(hidden.shape)}, expected {[len(tokens), head.shape[-1]]} from tokens "
            f"{list(tokens.shape)} and head {list(head.shape)}"
        )
    if not 0 < rows <= len(head):
        raise ValueError(f"vocab_size must lie between 1 and the head's {len(head)} rows")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    check_tokens("tokens", tokens, rows)
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    projection = Projection(LiveDistribution(hidden, head, bias), rows)
    log_probs = hidden.new_empty(len(tokens), dtype=wide)
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, len(tokens), chunk_size):
            chunk = slice(start, start + chunk_size)
            logits = projection.logits(chunk).to(wide).div_(temperature)  # [C, rows]
            logits -= logits.amax(-1, keepdim=True)
            chosen = logits.gather(-1, tokens[chunk, None]).squeeze(-1)
            log_probs[chunk] = chosen - logits.exp_().sum(-1).log_()
    return log_probs
