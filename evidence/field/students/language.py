"""The toy language with its guest and hour left open, and models of it that train in seconds.

A prompt is one of the six intents. An answer is one of its twenty templates, a word a token. So the
language has 120 sentences, whose probabilities are listed, and nothing to copy.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lab.data.toy_language import ANSWERS, RANK_PROBABILITIES
from kd_lab.vocabulary import IGNORED

END, UNSEEN, FIRST_PROMPT = 0, 1, 2  # no answer and no prompt holds UNSEEN
LONGEST = 20  # tokens of an answer; the language's longest has 15
INTENTS = list(ANSWERS)


class Answers(NamedTuple):
    """B answers: prompts [B], tokens [B, T] and a mask [B, T] of those that are there."""

    prompts: Tensor
    tokens: Tensor
    mask: Tensor

    @property
    def inputs(self) -> Tensor:
        """What a model reads to predict each token, [B, T]."""
        return torch.cat([self.prompts[:, None], self.tokens[:, :-1]], 1)

    @property
    def labels(self) -> Tensor:
        """[B, T]; -100 behind the end."""
        return torch.where(self.mask, self.tokens, IGNORED)


def _words() -> dict[str, int]:
    words = {word for templates in ANSWERS.values() for text in templates for word in _split(text)}
    return {word: FIRST_PROMPT + len(INTENTS) + i for i, word in enumerate(sorted(words))}


def _split(template: str) -> list[str]:
    return re.findall(r"\{\w+\}|\w+|[^\w\s]", template)


IDS = _words()
VOCABULARY = FIRST_PROMPT + len(INTENTS) + len(IDS)


def every_answer() -> Answers:
    """The 120 answers: those of an intent in a row, the likeliest first."""
    rows = [
        [*(IDS[word] for word in _split(text)), END]
        for templates in ANSWERS.values()
        for text in templates
    ]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [END] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    prompts = FIRST_PROMPT + torch.arange(len(INTENTS)).repeat_interleave(len(RANK_PROBABILITIES))
    return Answers(prompts, tokens, mask)


LANGUAGE = every_answer()
PROBABILITIES = torch.tensor(RANK_PROBABILITIES, dtype=torch.float64)


def draw_answers(prompts: Tensor, draw: torch.Generator) -> Answers:
    """The dataset's answers to prompts [B], drawn as the language has them."""
    rank = torch.multinomial(PROBABILITIES, len(prompts), replacement=True, generator=draw)
    row = (prompts - FIRST_PROMPT) * len(PROBABILITIES) + rank
    tokens, mask = LANGUAGE.tokens[row], LANGUAGE.mask[row]
    longest = int(mask.sum(1).max())
    return Answers(prompts, tokens[:, :longest], mask[:, :longest])


def draw_prompts(count: int, draw: torch.Generator) -> Tensor:
    """[count], each intent equally likely."""
    return FIRST_PROMPT + torch.randint(len(INTENTS), (count,), generator=draw)


class WordModels:
    """Language models of one size, one a seed, that are trained and read together.

    Each is a recurrent network of one layer (a GRU), as small as a language model can be. Their
    rows stand one model after the other: [S·B, T] are B rows of each of S models.
    """

    def __init__(self, width: int, seeds: Sequence[int]) -> None:
        shapes = {
            "embedding": (VOCABULARY, width),
            "read": (width, 3 * width), "read_bias": (1, 3 * width),
            "keep": (width, 3 * width), "keep_bias": (1, 3 * width),
            "head": (width, VOCABULARY), "head_bias": (1, VOCABULARY),
        }  # fmt: skip
        self.count, self.width = len(seeds), width
        each = []
        for seed in seeds:
            draw = torch.Generator().manual_seed(seed)
            each.append(
                {name: (2 * torch.rand(shape, generator=draw) - 1) * width**-0.5
                 for name, shape in shapes.items()}
            )  # fmt: skip
            each[-1]["embedding"] *= width**0.5
        self.weights = {
            name: torch.stack([one[name] for one in each]).requires_grad_() for name in shapes
        }

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits [S·B, T, V] of the token after each of inputs [S·B, T]."""
        read = self._read()
        state = self._begin(inputs)
        states = []
        for column in inputs.t():
            state = self._next(read, state, column)
            states.append(state)
        flat = torch.stack(states, 2).flatten(1, 2)  # [S, B·T, width]
        return self._logits(flat).view(*inputs.shape, VOCABULARY)

    @torch.no_grad()
    def write(self, prompts: Tensor, draw: torch.Generator) -> Answers:
        """One sampled answer to each of prompts [S·B], at most ``LONGEST`` tokens."""
        read, state, last = self._read(), self._begin(prompts), prompts
        writing = torch.ones(len(prompts), dtype=torch.bool)
        tokens, masks = [], []
        for _ in range(LONGEST):
            state = self._next(read, state, last)
            share = self._logits(state).softmax(-1).flatten(0, 1)
            last = torch.multinomial(share, 1, generator=draw)[:, 0]
            tokens.append(last)
            masks.append(writing)
            writing = writing & (last != END)
            if not writing.any():
                break
        return Answers(prompts, torch.stack(tokens, 1), torch.stack(masks, 1))

    @torch.no_grad()
    def log_probs(self) -> Tensor:
        """Of the language's answers, float64 [S, intents, answers of each]."""
        logits = self(LANGUAGE.inputs.repeat(self.count, 1)).double()
        each = F.cross_entropy(
            logits.flatten(0, 1), LANGUAGE.labels.repeat(self.count, 1).flatten(),
            reduction="none", ignore_index=IGNORED,
        )  # fmt: skip
        return -each.view(self.count, len(INTENTS), len(PROBABILITIES), -1).sum(-1)

    def _read(self) -> Tensor:
        """What each word says to the memory, [S, V, 3·width]."""
        w = self.weights
        return torch.baddbmm(w["read_bias"], w["embedding"], w["read"])

    def _begin(self, rows: Tensor) -> Tensor:
        return torch.zeros(self.count, len(rows) // self.count, self.width)

    def _next(self, read: Tensor, state: Tensor, words: Tensor) -> Tensor:
        """The memory [S, B, width] after words [S·B]."""
        word = words.view(self.count, -1)
        said = read[torch.arange(self.count)[:, None], word].chunk(3, -1)
        kept = torch.baddbmm(self.weights["keep_bias"], state, self.weights["keep"]).chunk(3, -1)
        update = (said[1] + kept[1]).sigmoid()
        new = (said[2] + (said[0] + kept[0]).sigmoid() * kept[2]).tanh()
        return new + update * (state - new)

    def _logits(self, states: Tensor) -> Tensor:
        return torch.baddbmm(self.weights["head_bias"], states, self.weights["head"])
