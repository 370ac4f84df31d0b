"""Answers through transformers, in a batch that is kept full.

A batch of ``generate`` waits for its longest answer. Here finished answers leave and new prompts
take their places (continuous batching: Orca, Yu et al. 2022). The cache works with any decoder-only
model of transformers. Prompts are padded on the left and come longest first, so that a new one (d)
is never wider than the rows that stay:

    [a a a a a a]      [a a a a a a a a]      [. . d d d d d d]
    [. b b b b b]  ->  [. b b b b b b b]  ->  [. b b b b b b b]  -> ...
    [. . c c c c]      [. . c c c c c c]      [. . c c c c c c]
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from kd_lab.loss.plain_logits import eval_mode
from kd_lab.rollout.compiled_decode import CompiledDecode, check_attention, compiled_decode
from kd_lab.rollout.right_aligned_cache import RightAlignedCache
from kd_lab.rollout.sampling import Completion, Sampling, next_tokens, row_uniforms

# The batch is refilled when this share of it has finished. A refill costs about as much as a step.
# A waiting row costs its part of every step. A quarter is near the best for 15 to 150 tokens.
REFILL_SHARE = 0.25
CACHED_LAYERS = {"full_attention", "sliding_attention"}


def write_answers(
    writers: PreTrainedModel | Sequence[tuple[PreTrainedModel, float]],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    eos_token_ids: Collection[int],
    seed: int,
    batch_size: int,
    vocab_size: int | None = None,
    first_row: int = 0,
    compiled: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """Write one answer to each prompt.

    Args:
        writers: a decoder-only model of transformers, or ``[(model, share), ...]``. The next-token
            distributions of several are mixed (MiniLLM's teacher-mixed sampling, arXiv 2306.08543,
            Section 2.2). A model's ``generation_config`` is ignored. Unwrap a model of DeepSpeed or
            DDP first. Each model is in eval mode while it writes and in its own mode afterwards.
        prompts: token ids of each prompt.
        eos_token_ids: any of these ends an answer.
        seed: with a prompt's place it fixes the answer for every ``batch_size``, up to the model's
            own rounding.
        batch_size: answers written at a time.
        vocab_size: draw only from the first so many tokens (``kd_lab.vocabulary``): the LM head's
            rows above them are padding. Default: all rows.
        first_row: the place of ``prompts[0]``, if these prompts are a part of a longer list.
        compiled: compile the step of one token (compiled_decode.py); prompts are read as before.
        progress: called after each step with the answers finished and the tokens written in it.
    Returns:
        the completions, in the order of the prompts.
    Raises:
        ValueError: an empty prompt (says which), shares that are not positive or do not sum to 1,
            LM heads of different sizes without a ``vocab_size``, layers with other caches than
            keys and values, or a model that cannot be compiled.
        FloatingPointError: the writers' logits are not finite; says at which prompt and token.
    """
    pairs = writers if isinstance(writers, Sequence) else [(writers, 1.0)]
    models, shares = [model for model, _ in pairs], [share for _, share in pairs]
    _check(models, shares, prompts, batch_size, vocab_size, first_row)
    for model in models if compiled else ():
        check_attention(model)
    rows = [
        _Row(place, prompt, row_uniforms(seed, place, sampling.max_new_tokens))
        for place, prompt in enumerate(prompts, start=first_row)
    ]
    waiting = deque(sorted(rows, key=lambda row: -len(row.prompt)))
    batch = _Batch(models, shares, sampling, vocab_size, frozenset(eos_token_ids), compiled)
    with torch.no_grad(), eval_mode(*models):
        while waiting or batch.is_writing():
            if batch.is_worth_refilling(bool(waiting)):
                written = batch.refill(waiting, batch_size)
            else:
                written = batch.step()
            if progress is not None:
                progress(sum(row.is_done for row in written), len(written))
    return [Completion(row.tokens, row.is_finished) for row in rows]


@dataclass
class _Row:
    """An answer being written."""

    place: int
    prompt: Sequence[int]
    uniforms: NDArray[np.float32]  # one for each of its tokens to come
    tokens: list[int] = field(default_factory=list)
    is_finished: bool = False  # an end token came
    is_done: bool = False  # or the answer was cut off

    @property
    def cached(self) -> int:
        """Tokens in the cache: all but the last written one."""
        return len(self.prompt) + len(self.tokens) - 1


class _Batch:
    """The rows being written; row i of every cache belongs to ``rows[i]``."""

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        shares: Sequence[float],
        sampling: Sampling,
        vocab_size: int | None,
        ends: frozenset[int],
        compiled: bool,
    ) -> None:
        self.models, self.shares = models, shares
        self.devices = [model.device for model in models]
        self.sampling, self.vocab_size, self.ends = sampling, vocab_size, ends
        self.rows: list[_Row] = []
        self.compiled = compiled
        self.caches: Sequence[RightAlignedCache | CompiledDecode] = []

    def is_writing(self) -> bool:
        return not all(row.is_done for row in self.rows)

    def is_worth_refilling(self, waits: bool) -> bool:
        """Whether enough rows have finished. A compiled batch drops none: its size is fixed."""
        if self.compiled and not waits:
            return False
        return sum(row.is_done for row in self.rows) >= REFILL_SHARE * len(self.rows)

    def refill(self, waiting: deque[_Row], batch_size: int) -> list[_Row]:
        """Put waiting rows in the places of finished ones, or drop these if none waits.

        Returns:
            the new rows, each with the first token of its answer.
        """
        free = [i for i, row in enumerate(self.rows) if row.is_done]
        if len(free) == len(self.rows):  # none stays
            self.rows = _take(waiting, batch_size)
            self.caches = caches = [RightAlignedCache() for _ in self.models]
            written = self._read_prompts(self.rows, caches)
            if self.compiled:
                self.caches = self._compile(caches)
            return written
        new = _take(waiting, len(free))
        if new:
            caches = [RightAlignedCache() for _ in self.models]
            self._read_prompts(new, caches)
            for cache, new_cache, device in zip(self.caches, caches, self.devices, strict=True):
                cache.replace(torch.tensor(free[: len(new)], device=device), new_cache)
            for i, row in zip(free, new, strict=False):
                self.rows[i] = row
        kept = [i for i in range(len(self.rows)) if i not in free[len(new) :]]
        for cache, device in zip(self.caches, self.devices, strict=True):
            if isinstance(cache, RightAlignedCache):
                if len(kept) < len(self.rows):
                    cache.keep(torch.tensor(kept, device=device))
                cache.crop_left(max(self.rows[i].cached for i in kept))
        if not self.compiled:
            self.rows = [self.rows[i] for i in kept]
        return new

    def _compile(self, caches: list[RightAlignedCache]) -> list[CompiledDecode]:
        """Each model's compiled step, with these caches in its storage."""
        width = max(len(row.prompt) for row in self.rows)
        decoders = []
        for model, cache, device in zip(self.models, caches, self.devices, strict=True):
            columns = width + self.sampling.max_new_tokens
            decoder = compiled_decode(model, len(self.rows), columns, cache)
            decoder.clear(width)
            decoder.replace(torch.arange(len(self.rows), device=device), cache)
            decoders.append(decoder)
        return decoders

    def step(self) -> list[_Row]:
        """Write one more token of every unfinished row; returns these rows."""
        ids = [row.tokens[-1] for row in self.rows]
        lengths = [row.cached + 1 for row in self.rows]
        logits = [
            cache.logits(model, ids, lengths)
            if isinstance(cache, CompiledDecode)
            else _read(model, cache, [[token] for token in ids], lengths)
            for model, cache in zip(self.models, self.caches, strict=True)
        ]
        return self._draw(self.rows, logits)

    def _read_prompts(self, rows: list[_Row], caches: list[RightAlignedCache]) -> list[_Row]:
        """Write the first token of each of these rows; their caches are empty so far."""
        lengths = [len(row.prompt) for row in rows]
        width = max(lengths)
        ids = [[0] * (width - len(row.prompt)) + list(row.prompt) for row in rows]
        pairs = zip(self.models, caches, strict=True)
        return self._draw(rows, [_read(model, cache, ids, lengths) for model, cache in pairs])

    def _draw(self, rows: list[_Row], logits: list[Tensor]) -> list[_Row]:
        """Write the next token of each unfinished row, from each model's logits [B, V]."""
        logits = [each[:, : self.vocab_size].to(self.devices[0]) for each in logits]
        uniforms = [0.0 if row.is_done else row.uniforms[len(row.tokens)] for row in rows]
        drawn = next_tokens(
            logits,
            self.shares,
            self.sampling,
            torch.tensor(uniforms, dtype=torch.float32, device=logits[0].device),
        ).tolist()
        live = [(row, token) for row, token in zip(rows, drawn, strict=True) if not row.is_done]
        for row, token in live:
            if token < 0:
                raise FloatingPointError(
                    f"the logits for token {len(row.tokens)} of the answer to prompt {row.place} "
                    "are not finite"
                )
            row.tokens.append(token)
            row.is_finished = token in self.ends
            row.is_done = row.is_finished or len(row.tokens) == self.sampling.max_new_tokens
        return [row for row, _ in live]


def _read(
    model: PreTrainedModel, cache: RightAlignedCache, ids: list[list[int]], lengths: list[int]
) -> Tensor:
    """Read ``ids`` [B, T], after which row i has ``lengths[i]`` tokens; the logits [B, V] then."""
    device = model.device
    columns = torch.arange(cache.get_seq_length() + len(ids[0]), device=device)
    places = columns - len(columns) + torch.tensor(lengths, device=device)[:, None]
    output = model(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=(places >= 0).long(),  # [B, columns]
        position_ids=places[:, -len(ids[0]) :].clamp(min=0),  # [B, T]
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1]


def _take(waiting: deque[_Row], count: int) -> list[_Row]:
    return [waiting.popleft() for _ in range(min(count, len(waiting)))]


def _check(
    models: Sequence[PreTrainedModel],
    shares: Sequence[float],
    prompts: Sequence[Sequence[int]],
    batch_size: int,
    vocab_size: int | None,
    first_row: int,
) -> None:
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"the writers' shares must be positive and sum to 1, not {shares}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    for place, prompt in enumerate(prompts, start=first_row):
        if len(prompt) == 0:
            raise ValueError(f"prompt {place} is empty: an answer needs a token to come after")
    configs = [model.config.get_text_config() for model in models]
    sizes = sorted({config.vocab_size for config in configs})
    if vocab_size is None and len(sizes) > 1:
        raise ValueError(f"the writers' heads have {sizes} rows: say by vocab_size how many to use")
    if vocab_size is not None and vocab_size > sizes[0]:
        raise ValueError(f"vocab_size {vocab_size} exceeds the {sizes[0]} rows of a writer's head")
    for config in configs:
        others = set(getattr(config, "layer_types", None) or ()) - CACHED_LAYERS
        if others:
            raise ValueError(
                f"a {config.model_type} model has layers of another kind than attention over keys "
                f"and values ({', '.join(sorted(others))}): let vllm write its answers"
            )
