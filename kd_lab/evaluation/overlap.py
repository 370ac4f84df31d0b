"""The words of the answers: overlap with the reference, and variety among the answers.

ROUGE (Lin 2004) is rouge-score's: F1 of shared words, word pairs and the longest common
subsequence, in [0, 1]. It reads only lower-case Latin letters and digits, so two answers in another
script overlap by 0.

Variety is measured by n-grams of lower-case words and punctuation marks. The measures are
distinct-n (Li et al. 2016, arXiv 1510.03055), repetition (Welleck et al. 2019, arXiv 1908.04319)
and self-BLEU (Zhu et al. 2018, arXiv 1802.01886).
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NGram = tuple[str, ...]

BLEU_ORDER = 4
BLEU_EPSILON = 0.1  # matches counted where there are none, as in NLTK's first smoothing method


def rouge(
    answers: Sequence[str],
    references: Sequence[str],
    *,
    stemmer: bool = False,
    advance: Callable[[int], object] = lambda done: None,
) -> dict[str, Floats]:
    """ROUGE-1, ROUGE-2 and ROUGE-L F1 of each answer against its reference.

    Args:
        answers, references: n texts each.
        stemmer: whether words are cut to their Porter stem first.
        advance: called with 1 after each example.
    Returns:
        "rouge1", "rouge2" and "rougeL", each [n], in [0, 1].
    Raises:
        ValueError: the numbers of answers and references differ.
    """
    from rouge_score.rouge_scorer import RougeScorer  # takes a second to import

    if len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers, but {len(references)} references")
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmer)
    f1 = np.zeros((3, len(answers)))
    for i, (answer, reference) in enumerate(zip(answers, references, strict=True)):
        scores = scorer.score(reference, answer)
        f1[:, i] = [scores[kind].fmeasure for kind in scorer.rouge_types]
        advance(1)
    return dict(zip(scorer.rouge_types, f1, strict=True))


def distinct(answers: Sequence[str], n: int) -> float:
    """Distinct-n: the share of different n-grams among all n-grams; 1 without any n-gram.

    Over the answers to one prompt it falls as they collapse onto a few. It also falls with their
    number and length, so compare only sets of the same size.
    """
    ngrams = [ngram for answer in answers for ngram in _ngrams(_words(answer), n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 1.0


def repetition(answer: str, n: int = 4) -> float:
    """The share of an answer's n-grams that repeat an earlier one; 0 without any n-gram."""
    return 1 - distinct([answer], n)


def self_bleu(answers: Sequence[str]) -> Floats:
    """BLEU-4 of each answer with all the others as its references: 1 if all are
    the same, and have four words or more.

    A match of n-grams is clipped at the largest count in any other answer. The two largest counts
    of each n-gram give this clip for every answer at once. So the time is linear in the text;
    scoring each answer against all the others would be quadratic.

    Returns:
        [n], in [0, 1]; equal to NLTK's ``sentence_bleu`` with its first smoothing method.
    Raises:
        ValueError: fewer than two answers.
    """
    if len(answers) < 2:
        raise ValueError("self-BLEU compares answers: it needs at least two")
    words = [_words(answer) for answer in answers]
    lengths = np.array([len(text) for text in words])
    log_precision = np.zeros(len(answers))
    silent = np.zeros(len(answers), bool)  # without a word in common with any other: BLEU is 0
    for n in range(1, BLEU_ORDER + 1):
        counts = [Counter(_ngrams(text, n)) for text in words]
        best = _two_largest(counts)
        for i, own in enumerate(counts):
            # Of the largest count the answer itself is left out, and the second takes its place.
            matches = sum(
                min(count, best[ngram][1] if best[ngram][2] == i else best[ngram][0])
                for ngram, count in own.items()
            )
            silent[i] |= n == 1 and matches == 0
            log_precision[i] += math.log((matches or BLEU_EPSILON) / max(1, own.total()))
    shortfall = np.array(
        [1 - _closest_other(lengths, i) / max(1, lengths[i]) for i in range(len(lengths))]
    )
    bleu = np.exp(log_precision / BLEU_ORDER + np.minimum(0, shortfall))
    return np.where(silent, 0, bleu)


def _two_largest(counts: Sequence[Counter[NGram]]) -> dict[NGram, tuple[int, int, int]]:
    """For each n-gram the two largest counts in an answer, and the answer of the largest."""
    best: dict[NGram, tuple[int, int, int]] = {}
    for i, own in enumerate(counts):
        for ngram, count in own.items():
            first, second, whose = best.get(ngram, (0, 0, -1))
            if count > first:
                best[ngram] = (count, first, i)
            elif count > second:
                best[ngram] = (first, count, whose)
    return best


def _closest_other(lengths: NDArray[np.int_], i: int) -> int:
    """The length, among the other answers, nearest to answer i's; the shorter of two."""
    others = np.delete(lengths, i)
    return int(min(others, key=lambda length: (abs(length - lengths[i]), length)))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _ngrams(words: list[str], n: int) -> list[NGram]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))
