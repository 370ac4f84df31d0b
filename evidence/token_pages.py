"""Where two objectives differ, word by word: what each model expects next in the same answers.

It reads a finished study of the toy language and writes the numbers of the site's page on tokens:

    kd-lab demo
    python -m evidence token_pages runs/demo

Nobody picks the examples. For each of the six intents the page shows two test questions: the first
one, and the one on which the two students disagree most. Each student answers every question eight
times. We score an answer y by log F(y) - log R(y): how much likelier the forward-KL student finds
it. Beside the reference we show the highest- and the lowest-scoring answer; the difference between
their scores is the disagreement.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_lab.data.conversations import DataArguments
from kd_lab.data.toy_language import answers, hallucinated_values, log_prob, understand
from kd_lab.divergences import forward_kl, reverse_kl
from kd_lab.evaluation.held_out import HeldOut, load_test_set
from kd_lab.loss.token_log_probs import token_log_probs
from kd_lab.methods import METHODS
from kd_lab.models import Model, shared_size
from kd_lab.runs.run_files import COMPLETE
from kd_lab.runs.versions import run_versions
from kd_lab.states import answered_rows, trained_states
from kd_lab.study.toy import SECONDS

SEED = 1  # the page shows each method's student of this seed
FORWARD, REVERSE = "token_fkl", "token_rkl"  # whose answers are set against each other
EXAMPLES, SAMPLES, LONGEST = 300, 8, 16  # as `kd-lab demo` evaluates: questions, answers, tokens
SHOWN, NEGLIGIBLE = 12, 0.005  # how many tokens a page lists, and the least of their probabilities


class Contrast(NamedTuple):
    """The answers to one question with the highest and the lowest score."""

    to_forward: list[int]  # token ids, end token included
    to_reverse: list[int]
    gap: float  # how much further ahead forward KL is on the one than on the other, nats


def measure(runs: Path, examples: int = EXAMPLES, samples: int = SAMPLES) -> dict[str, Any]:
    """Twelve questions, each with up to three answers, under every model of the study.

    Args:
        runs: the folder of a finished ``kd-lab demo``; it is only read.
        examples: how many questions the test set has; it must hold two of each intent.
        samples: how many answers each of the two students writes to each question.
    Returns:
        - ``models``: ``name`` and ``label`` of each.
        - ``questions``: ``question``, ``why`` ("first" or "divides") and ``answers`` of each. An
          answer has ``from``, ``text``, ``grammar_log_prob`` (nats; None if the grammar cannot say
          it), ``invented`` (guests and hours nobody named) and ``positions``; see ``_position``.
        - ``settings``, ``versions``: of the measurement.
    Raises:
        ValueError: a model of the study is missing, or the test set is too small.
    """
    names = ["teacher", "start", *(f"{method}-{SEED}" for method in SECONDS)]
    for name in names:
        if not (runs / name / COMPLETE).exists():
            raise ValueError(
                f"{runs} holds no finished {name}: give the folder of a whole `kd-lab demo`"
            )
    models = {name: Model(str(runs / name), None, "auto") for name in names}
    teacher = models["teacher"]
    sizes = {shared_size(model, teacher) for model in models.values()}
    test = load_test_set(
        DataArguments(num_test_conversations=examples), teacher.tokenizer, 1024, 2048
    )
    pair = [models[f"{method}-{SEED}"] for method in (FORWARD, REVERSE)]
    contrasts = find_contrasts(pair, test, samples, min(sizes))
    chosen = choose_questions(test.last_messages, [each.gap for each in contrasts])
    reader = _Reader(list(models.values()), min(sizes))
    return {
        "models": [
            {"name": name.removesuffix(f"-{SEED}"), "label": _label(name)} for name in names
        ],
        "questions": [
            {
                "question": test.last_messages[i],
                "why": why,
                "answers": [
                    reader.read(test.last_messages[i], test.prompts[i], whose, ids)
                    for whose, ids in _answers(test.references[i], contrasts[i], teacher.tokenizer)
                ],
            }
            for i, why in chosen
        ],
        "settings": {"seed": SEED, "examples": examples, "samples": samples},
        "versions": run_versions({}),
    }


def find_contrasts(
    pair: Sequence[Model], test: HeldOut, samples: int, vocab_size: int
) -> list[Contrast]:
    """For each question, the sampled answers with the highest and the lowest score.

    Args:
        pair: the students of forward and of reverse KL.
        samples: how many answers each student writes to each question, by seed 0. Answers that were
            cut off, or that are the reference, do not count.
    """
    from kd_lab.rollout.sampling import Sampling
    from kd_lab.rollout.transformers_engine import write_answers

    tokenizer = pair[0].tokenizer
    repeated = [prompt for prompt in test.prompts for _ in range(samples)]
    written = [
        write_answers(
            side.model, repeated, Sampling(LONGEST), eos_token_ids=[tokenizer.eos_token_id],
            seed=0, batch_size=256, vocab_size=vocab_size,
        )
        for side in pair
    ]  # fmt: skip
    pool = [answer.tokens for side in written for answer in side]
    worth = np.zeros(len(pool))
    for side, sign in zip(pair, (1, -1), strict=True):
        worth += sign * answer_log_probs(side, [*repeated, *repeated], pool, vocab_size)
    finished = np.array([answer.finished for side in written for answer in side])
    whose = np.tile(np.repeat(np.arange(len(test.prompts)), samples), 2)

    contrasts = []
    for i, reference in enumerate(test.references):
        known = spelt(reference, tokenizer)
        others = [j for j in np.flatnonzero((whose == i) & finished) if pool[j] != known]
        if not others:
            contrasts.append(Contrast(known, known, 0.0))
            continue
        high, low = (others[int(best(worth[others]))] for best in (np.argmax, np.argmin))
        contrasts.append(Contrast(pool[high], pool[low], float(worth[high] - worth[low])))
    return contrasts


def answer_log_probs(
    side: Model, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], vocab_size: int
) -> NDArray[np.float64]:
    """log q of whole answers, nats, [n]."""
    head = side.model.get_output_embeddings()
    total = np.zeros(len(texts))
    for states in trained_states([side.model], answered_rows(prompts, texts)):
        per_token = token_log_probs(
            states.hidden[0], head.weight, states.tokens, bias=head.bias, vocab_size=vocab_size
        )
        np.add.at(total, states.row.cpu().numpy(), per_token.double().cpu().numpy())
    return total


def choose_questions(questions: Sequence[str], gaps: Sequence[float]) -> list[tuple[int, str]]:
    """For each intent the first question, and another one with the greatest gap.

    Returns:
        places in ``questions``, each with "first" or "divides".
    Raises:
        ValueError: an intent has fewer than two different questions.
    """
    by_intent: dict[str, list[int]] = {}
    for i, question in enumerate(questions):
        by_intent.setdefault(understand(question).intent, []).append(i)
    chosen = []
    for intent, places in by_intent.items():
        first, *_ = places
        others = [i for i in places if questions[i] != questions[first]]
        if not others:
            raise ValueError(f"the test set has one question about {intent!r}; the page needs two")
        chosen += [(first, "first"), (max(others, key=gaps.__getitem__), "divides")]
    return chosen


def grammar_next(
    sentences: Sequence[tuple[Sequence[int], float]], prefix: Sequence[int]
) -> dict[int, float] | None:
    """The true distribution of the next token, token id -> probability.

    Args:
        sentences: all answers to the question as token ids, end token included, and their
            probabilities.
        prefix: the token ids before it.
    Returns:
        None if no answer begins with this prefix.
    """
    after: dict[int, float] = {}
    for ids, probability in sentences:
        if len(ids) > len(prefix) and list(ids[: len(prefix)]) == list(prefix):
            after[ids[len(prefix)]] = after.get(ids[len(prefix)], 0.0) + probability
    mass = sum(after.values())
    return {token: p / mass for token, p in after.items()} if after else None


def spelt(text: str, tokenizer: Any) -> list[int]:
    """An answer's token ids, end token included."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


class _Reader:
    """Reads answers through all models at once."""

    def __init__(self, models: Sequence[Model], vocab_size: int) -> None:
        self.models, self.vocab_size = models, vocab_size
        self.tokenizer = models[0].tokenizer

    def read(
        self, question: str, prompt: Sequence[int], whose: str, ids: Sequence[int]
    ) -> dict[str, Any]:
        text = str(self.tokenizer.decode(list(ids[:-1])))
        sentences = [(spelt(each, self.tokenizer), p) for each, p in answers(question)]
        true = log_prob(question, text)
        logp = self._distributions(prompt, ids)  # [models, tokens, V]
        return {
            "from": whose,
            "text": text,
            "grammar_log_prob": None if math.isinf(true) else _digits(true, 4),
            "invented": sorted(hallucinated_values(question, text)),
            "positions": [
                self._position(logp[:, n], token, grammar_next(sentences, ids[:n]))
                for n, token in enumerate(ids)
            ],
        }

    @torch.inference_mode()
    def _distributions(self, prompt: Sequence[int], ids: Sequence[int]) -> Tensor:
        row = torch.tensor([[*prompt, *ids]])
        logits = [
            side.model(row.to(side.model.device)).logits[0, len(prompt) - 1 : -1, : self.vocab_size]
            for side in self.models
        ]
        return torch.stack([each.cpu().double().log_softmax(-1) for each in logits])

    def _position(
        self, logp: Tensor, taken: int, truth: Mapping[int, float] | None
    ) -> dict[str, Any]:
        """One position of an answer: its token, and the distributions there.

        Args:
            logp: every model's log-probabilities, the teacher's first, [models, V].
            taken: the token that stands there.
            truth: the grammar's distribution, or None.
        Returns:
            - ``tokens``: the token that stands there, then the likeliest ones.
            - ``p``: [model][token].
            - ``grammar``: [token], or None.
            - ``forward_kl``, ``reverse_kl``: each model's, from the teacher, over the whole
              vocabulary; nats.
            - ``grammar_kl``: each model's D(grammar‖model) in nats, or None.
        """
        p = logp.exp()
        true = torch.zeros(self.vocab_size, dtype=torch.float64)
        for token, probability in (truth or {}).items():
            true[token] = probability
        most = torch.maximum(p.amax(0), true)  # [V]
        ranked = [int(t) for t in most.argsort(descending=True, stable=True) if t != taken]
        shown = [taken, *(t for t in ranked[: SHOWN - 1] if most[t] >= NEGLIGIBLE)]
        return {
            "tokens": [self.tokenizer.decode([token]) for token in shown],
            "p": [[_digits(float(row[token]), 4) for token in shown] for row in p],
            "grammar": None if truth is None else [_digits(float(true[t]), 4) for t in shown],
            "forward_kl": [_digits(float(forward_kl(logp[0], row)), 3) for row in logp],
            "reverse_kl": [_digits(float(reverse_kl(logp[0], row)), 3) for row in logp],
            "grammar_kl": None
            if truth is None
            else [_digits(float(forward_kl(true.log(), row)), 3) for row in logp],
        }


def _answers(reference: str, contrast: Contrast, tokenizer: Any) -> list[tuple[str, list[int]]]:
    candidates = [
        ("reference", spelt(reference, tokenizer)),
        (FORWARD, contrast.to_forward),
        (REVERSE, contrast.to_reverse),
    ]
    return [
        (whose, ids)
        for n, (whose, ids) in enumerate(candidates)
        if ids not in [earlier for _, earlier in candidates[:n]]
    ]


def _label(name: str) -> str:
    method = METHODS.get(name.removesuffix(f"-{SEED}"))
    return method.words if method else name


def _digits(value: float, digits: int) -> float:
    """Rounded to significant digits."""
    return float(f"{value:.{digits}g}")
