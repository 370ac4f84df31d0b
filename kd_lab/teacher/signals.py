"""The stored part of a teacher's distributions: its likeliest tokens at each position."""

import torch
from torch import Tensor

from kd_lab.loss.chunks import LiveDistribution, Projection


def token_dtype(vocab_size: int) -> torch.dtype:
    """The dtype of stored tokens: uint16 in a vocabulary of up to 65,536, else int32."""
    return torch.uint16 if vocab_size <= 2**16 else torch.int32


def topk_bytes(k: int, vocab_size: int) -> int:
    """Bytes of one position's k log-probabilities, in float16, its k tokens, and its tail."""
    return k * (2 + token_dtype(vocab_size).itemsize) + 4


@torch.inference_mode()
def topk_distribution(
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
        chunk_size: how many positions have their logits in memory at a time.
    Returns:
        on the CPU, in nats:
        - ``topk_logp``: float16 [n, k].
        - ``topk_tokens``: [n, k], of ``token_dtype``.
        - ``topk_tail``: float32 [n], -inf at k = V.
    """
    narrow = token_dtype(len(head))
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
