"""Exposure bias: how far student and teacher differ on prefixes that the student has written.

A student that learns from given answers meets new prefixes when it writes: its own. We compare the
two next-word distributions word by word, on prefixes of the dataset, of the teacher and of the
student. We ask two things: is the gap larger on the student's own prefixes, and does it grow with
length? Some positions are harder whoever wrote the prefix. So compare sources at one position, or
sums over all positions. Arora et al. 2022 (arXiv 2204.01171) call the surplus of such a sum the
excess accumulated error.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evidence.gradients.toy_pair import LONGEST, Pair
from kd_lab.data.toy_language import answers
from kd_lab.divergences import forward_kl, reverse_kl
from kd_lab.evaluation.intervals import Interval, bootstrap_interval, paired_difference
from kd_lab.states import answered_rows, both_distributions

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ENOUGH = 30  # answers for an interval
RESAMPLES = 2_000  # a position: each has its own number of answers, and so its own draws
DIRECTIONS = ("forward", "reverse")


class PositionKL(NamedTuple):
    """The token-level KLs of n answers, padded to ``LONGEST`` words; 0 after an answer's end."""

    forward: Floats  # D(p‖q), nats, [n, T]
    reverse: Floats  # D(q‖p), nats, [n, T]
    mask: Bools  # which answers have a t-th word, [n, T]


@torch.inference_mode()
def kl_by_position(pair: Pair, written: Sequence[Sequence[int]]) -> PositionKL:
    """Compare the two distributions before each word of given answers.

    Args:
        written: token ids: to each of the pair's prompts an answer of up to ``LONGEST`` words.
    """
    lengths = np.array([len(answer) for answer in written])
    mask = np.arange(LONGEST) < lengths[:, None]
    rows = answered_rows(pair.prompts, written)
    measured = [
        torch.stack([forward_kl(p, q), reverse_kl(p, q)]).double().cpu()
        for _, _, p, q in both_distributions(
            pair.student, pair.teacher, rows, vocab_size=pair.vocab_size
        )
    ]
    forward, reverse = np.zeros(mask.shape), np.zeros(mask.shape)
    forward[mask], reverse[mask] = torch.cat(measured, 1).numpy()
    return PositionKL(forward, reverse, mask)


def by_position(values: Floats, mask: Bools) -> list[Interval]:
    """The mean at each position over the answers that reach it, with 95% intervals over these.

    The first position that fewer than ``ENOUGH`` answers reach ends the list.

    Args:
        values, mask: [n, T].
    """
    reached = mask.sum(0)
    return [
        bootstrap_interval(values[mask[:, t], t], resamples=RESAMPLES)
        for t in range(int((reached >= ENOUGH).cumprod().sum()))
    ]


def sayable(
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[str],
    written: Sequence[Sequence[int]],
) -> Bools:
    """Before each word of answers to the toy's questions: can the grammar go on from here?

    Returns:
        bool [n, LONGEST]: whether the prefix before the t-th word begins one of the question's
        answers; False after an answer's end.
    """
    found = np.zeros((len(written), LONGEST), bool)
    beginnings: dict[str, set[tuple[int, ...]]] = {}
    for row, (question, answer) in enumerate(zip(questions, written, strict=True)):
        if question not in beginnings:
            texts = [text for text, _ in answers(question)]
            spelt = tokenizer(texts, add_special_tokens=False)["input_ids"]
            beginnings[question] = {tuple(ids[:t]) for ids in spelt for t in range(len(ids) + 1)}
        for t in range(len(answer)):
            found[row, t] = tuple(answer[:t]) in beginnings[question]
    return found


def exposure_figures(pairs: Sequence[Pair]) -> dict[str, Any]:
    """How far students of one method (a pair a seed) are from their teacher, by prefix source.

    Returns:
        a dict of figures; each is an ``Interval`` over answers:
        - ``by_position``: source -> direction -> one figure a position, in nats.
        - ``sum``: source -> direction -> the figure of whole answers, in nats.
        - ``surplus``: direction -> own prefixes less the dataset's, in nats an answer.
        - ``strayed``: the share of the student's prefixes that begin no answer of the grammar.
        - ``strayed_by_position``: that share at each position.
        - ``inside``, ``outside``: the reverse KL a word on prefixes inside and outside the grammar.
    """
    parts: dict[str, list[PositionKL]] = {"dataset": [], "teacher": [], "student": []}
    can_go_on = []
    for seed, pair in enumerate(pairs):
        own = pair.answers(pair.student, seed)
        parts["dataset"].append(kl_by_position(pair, pair.references))
        parts["teacher"].append(kl_by_position(pair, pair.answers(pair.teacher, seed)))
        parts["student"].append(kl_by_position(pair, own))
        can_go_on.append(sayable(pair.tokenizer, pair.questions, own))
    sources = {
        source: PositionKL(*map(np.concatenate, zip(*of_seeds, strict=True)))
        for source, of_seeds in parts.items()
    }
    student, inside = sources["student"], np.concatenate(can_go_on)
    outside = student.mask & ~inside
    return {
        "by_position": {
            source: {
                direction: [i._asdict() for i in by_position(getattr(kl, direction), kl.mask)]
                for direction in DIRECTIONS
            }
            for source, kl in sources.items()
        },
        "sum": {
            source: {
                direction: bootstrap_interval(getattr(kl, direction).sum(1))._asdict()
                for direction in DIRECTIONS
            }
            for source, kl in sources.items()
        },
        "surplus": {
            direction: paired_difference(
                getattr(student, direction).sum(1), getattr(sources["dataset"], direction).sum(1)
            )._asdict()
            for direction in DIRECTIONS
        },
        "strayed": _mean_over_words(outside, student.mask),
        "strayed_by_position": [
            i._asdict() for i in by_position(outside.astype(float), student.mask)
        ],
        "inside": _mean_over_words(student.reverse, inside),
        "outside": _mean_over_words(student.reverse, outside),
    }


def _mean_over_words(values: NDArray[Any], where: Bools) -> dict[str, Any]:
    """A mean over words, its interval over answers: an answer's words are drawn together."""
    words = where.sum(1)
    means = (values * where).sum(1) / np.maximum(words, 1)
    return bootstrap_interval(means, words)._asdict()
