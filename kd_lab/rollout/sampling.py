"""Draw the next token from a distribution by one uniform number that belongs to it alone.

The number depends only on the seed, the answer's number and the token's place in it. The token is
read off the distribution's cumulative sum. So an answer stays the same in any batch, up to the
rounding of the logits themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUCLEUS_GUESS = 1024  # likeliest tokens to look at first for top_p; a full sort is a last resort


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: temperature, then top_k, then top_p, as in transformers and vLLM.

    Raises:
        ValueError: a setting outside its range.
    """

    max_new_tokens: int
    temperature: float = 1.0  # 0: always the likeliest token
    top_p: float = 1.0  # keep the smallest set of likeliest tokens with at least this mass
    top_k: int = 0  # keep so many of the likeliest tokens (and no others); 0: all

    def __post_init__(self) -> None:
        for name, holds, range_ in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 (greedy) or positive"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("top_k", self.top_k >= 0, "0 (all tokens) or positive"),
        ):
            if not holds:
                raise ValueError(f"{name} must be {range_}, not {getattr(self, name)}")


class Completion(NamedTuple):
    """One answer."""

    tokens: list[int]  # the end token included, if it came
    finished: bool  # False: cut off at max_new_tokens


def row_uniforms(seed: int, row: int, count: int) -> NDArray[np.float32]:
    """The first ``count`` uniform numbers in [0, 1) that belong to one answer: [count]."""
    key = np.array([seed, row], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count, dtype=np.float32)


def answer_seed(seed: int, row: int) -> int:
    """One number in [0, 2^32) that belongs to one answer, for an engine with its own generators."""
    return int(np.random.SeedSequence([seed, row]).generate_state(1)[0])


def next_tokens(
    logits: Sequence[Tensor], shares: Sequence[float], sampling: Sampling, uniforms: Tensor
) -> Tensor:
    """Draw a token for each row from the mixture Σ shareᵢ·softmax(logitsᵢ / temperature).

    top_k and top_p cut the mixture, not its parts. Greedy takes the mixture's likeliest token.

    Args:
        logits: of each writer, [B, V].
        shares: of each writer; they sum to 1.
        uniforms: [B] in [0, 1); unused if greedy.
    Returns:
        [B] tokens; -1 where the logits are not finite.
    """
    if sampling.temperature == 0:
        scores = logits[0] if len(logits) == 1 else _mixture(logits, shares, 1.0)
        best, tokens = scores.max(-1)
        return torch.where(best.isfinite(), tokens, -1)
    mixture = _mixture(logits, shares, sampling.temperature)
    if sampling.top_k == 0 and sampling.top_p == 1:
        return _invert(mixture, uniforms)
    weights, candidates = _likeliest(mixture, sampling)  # [B, K] both
    # Of NaN no token is likeliest, so that all weights are 0 and no place is right.
    is_finite = mixture.sum(-1).isfinite()
    places = _invert(weights, uniforms).clamp(0, weights.shape[-1] - 1)
    tokens = candidates.gather(-1, places.unsqueeze(-1)).squeeze(-1)
    return torch.where(is_finite, tokens, -1)


def _mixture(logits: Sequence[Tensor], shares: Sequence[float], temperature: float) -> Tensor:
    parts = [torch.softmax(one.float() / temperature, dim=-1) for one in logits]
    if len(parts) == 1:
        return parts[0]
    return sum((share * p for share, p in zip(shares, parts, strict=True)), start=parts[0] * 0)


def _likeliest(mixture: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The tokens that top_k and top_p keep, and their weights (0 where cut; not renormalised)."""
    size = mixture.shape[-1]
    count = min(sampling.top_k or NUCLEUS_GUESS, size)
    weights, tokens = mixture.topk(count, dim=-1)
    mass = weights.sum(-1, keepdim=True)
    if sampling.top_k == 0:
        mass = mixture.sum(-1, keepdim=True)
        if count < size and bool((weights.sum(-1, keepdim=True) < sampling.top_p * mass).any()):
            weights, tokens = mixture.sort(dim=-1, descending=True)
    mass_before = weights.cumsum(-1) - weights
    return torch.where(mass_before < sampling.top_p * mass, weights, 0.0), tokens


def _invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The index at which each cumulative sum passes its uniform number; -1 if it never does."""
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    # Strictly below the total, so that the place found is one whose weight is not 0.
    threshold = torch.minimum(
        uniforms.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total))
    )
    places = torch.searchsorted(cumulative, threshold, right=True)
    return torch.where(total.isfinite(), places, -1).squeeze(-1)
