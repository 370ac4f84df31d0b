"""The toy language with its guest and hour left open, its teacher, and students, all of them exact.

A prompt is one of three intents. An answer is one of the intent's twenty templates, a word a token:
60 answers, whose probabilities are listed. After any words there is one *state*: the words so far
where they begin an answer, and else the intent and the last word alone. The teacher is a table of
what comes next in each state: what the language says, or else what follows that word in it; and a
little of all words. A student knows the intent and the last two words and nothing before (once what
it wrote begins no answer, the last word), so that no student is its teacher, and each must choose
what it gets wrong.
"""

import re
from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor

from kd_lab.data.toy_language import ANSWERS, RANK_PROBABILITIES
from kd_lab.vocabulary import IGNORED

END, BEGIN = 0, 1  # tokens; no answer holds BEGIN, which stands before its first word
LONGEST = 20  # tokens of an answer; the language's longest has 15
ANYTHING = 2e-3  # the teacher's mass, spread over all words
ASKED = ("table", "taxi", "wake")  # of the language's six intents
INTENTS = len(ASKED)
PROBABILITIES = torch.tensor(RANK_PROBABILITIES, dtype=torch.float64)


def _split(template: str) -> list[str]:
    return re.findall(r"\{\w+\}|\w+|[^\w\s]", template)


_TEXTS = [[_split(text) for text in ANSWERS[intent]] for intent in ASKED]
_WORDS = sorted({word for texts in _TEXTS for text in texts for word in text})
_TOKENS = [
    [[2 + _WORDS.index(word) for word in text] + [END] for text in texts] for texts in _TEXTS
]
VOCABULARY = 2 + len(_WORDS)


class Teacher(NamedTuple):
    """All states: the first ones are those of an intent with nothing written."""

    logits: Tensor  # of what comes next, [states, V], float32
    following: Tensor  # the state after each word, [states, V]
    row: Tensor  # what a student knows of it, in one number, [states]
    starts: Tensor  # the logits from which students begin, [rows, V]


def _teacher() -> Teacher:
    after: dict[tuple[int, ...], dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for intent, answers in enumerate(_TOKENS):
        for tokens, mass in zip(answers, RANK_PROBABILITIES, strict=True):
            for t, token in enumerate(tokens):
                last = tokens[t - 1] if t else BEGIN
                for key in ((intent, *tokens[:t]), (-1, intent, last), (-2, intent)):
                    after[key][token] += mass
    prefixes: list[tuple[int, ...]] = [(intent,) for intent in range(INTENTS)]
    prefixes += [key for key in after if key[0] >= 0 and len(key) > 1]
    lost = [(-1, i, last) for i in range(INTENTS) for last in range(VOCABULARY)]
    number = {key: i for i, key in enumerate([*prefixes, *lost])}
    share = torch.full((len(number), VOCABULARY), ANYTHING / VOCABULARY, dtype=torch.float64)
    following = torch.zeros(len(number), VOCABULARY, dtype=torch.long)
    known: dict[tuple[int, ...], int] = {}  # what a student knows -> its row
    row = torch.zeros(len(number), dtype=torch.long)
    for key, i in number.items():
        is_lost = key[0] < 0
        intent = key[1] if is_lost else key[0]
        seen = after[key] if key in after else after[-2, intent]
        for token, mass in seen.items():
            share[i, token] += (1 - ANYTHING) * mass / sum(seen.values())
        knows = key if is_lost else (intent, *(BEGIN, BEGIN, *key[1:])[-2:])
        row[i] = known.setdefault(knows, len(known))
        for token in range(VOCABULARY):
            longer = (*key, token)
            following[i, token] = number.get(longer, number[-1, intent, token])
    logits = share.log().float()
    starts = torch.zeros(len(known), VOCABULARY)
    for key, i in number.items():
        if key[0] < 0:  # no answer of the dataset goes there, so that SFT would teach nothing of it
            starts[row[i]] = logits[i]
    return Teacher(logits, following, row, starts)


TEACHER = _teacher()


class Answers(NamedTuple):
    """N answers, [N, T] each."""

    tokens: Tensor
    mask: Tensor  # whether a token is there
    states: Tensor  # before each token

    @property
    def labels(self) -> Tensor:
        """-100 behind the end."""
        return torch.where(self.mask, self.tokens, IGNORED)

    @property
    def teacher_logits(self) -> Tensor:
        """[N, T, V]"""
        return TEACHER.logits[self.states]


def _every_answer() -> Answers:
    rows = [(intent, tokens) for intent, answers in enumerate(_TOKENS) for tokens in answers]
    longest = max(len(tokens) for _, tokens in rows)
    padded = torch.tensor([tokens + [END] * (longest - len(tokens)) for _, tokens in rows])
    mask = torch.tensor([[t < len(tokens) for t in range(longest)] for _, tokens in rows])
    state = torch.tensor([intent for intent, _ in rows])
    states = []
    for column in padded.t():
        states.append(state)
        state = TEACHER.following[state, column]
    return Answers(padded, mask, torch.stack(states, 1))


LANGUAGE = _every_answer()  # the answers of an intent in a row, the likeliest first


def draw_answers(intents: Tensor, draw: torch.Generator) -> Answers:
    """The dataset's answers to intents [N], drawn as the language has them."""
    rank = torch.multinomial(PROBABILITIES, len(intents), replacement=True, generator=draw)
    drawn = intents * len(PROBABILITIES) + rank
    return Answers(*(part[drawn] for part in LANGUAGE))


class Students:
    """M students: what comes next by all that they know, a table each."""

    def __init__(self, seeds: int) -> None:
        self.count = seeds
        rows = []
        for seed in range(seeds):
            draw = torch.Generator().manual_seed(seed)
            rows.append(TEACHER.starts + 0.1 * torch.randn(TEACHER.starts.shape, generator=draw))
        self.table = torch.cat(rows).requires_grad_()  # [M·rows, V]

    def __call__(self, states: Tensor) -> Tensor:
        """Logits [M·B, ..., V] at states [M·B, ...]: B rows of each student, in a row."""
        which = torch.arange(self.count).repeat_interleave(len(states) // self.count)
        which = which.view(-1, *[1] * (states.ndim - 1))
        return self.table[which * len(TEACHER.starts) + TEACHER.row[states]]

    @torch.no_grad()
    def write(self, intents: Tensor, draw: torch.Generator) -> Answers:
        """One sampled answer to each of intents [M·B], at most ``LONGEST`` tokens."""
        state, writing = intents, torch.ones(len(intents), dtype=torch.bool)
        tokens, masks, states = [], [], []
        for _ in range(LONGEST):
            token = torch.multinomial(self(state).softmax(-1), 1, generator=draw)[:, 0]
            tokens.append(token)
            masks.append(writing)
            states.append(state)
            state, writing = TEACHER.following[state, token], writing & (token != END)
            if not writing.any():
                break
        return Answers(*(torch.stack(parts, 1) for parts in (tokens, masks, states)))

    @torch.no_grad()
    def distributions(self) -> Tensor:
        """Log-probabilities in every state, float64 [M, states, V]."""
        states = torch.arange(len(TEACHER.row)).repeat(self.count)
        return self(states).double().log_softmax(-1).view(self.count, -1, VOCABULARY)
