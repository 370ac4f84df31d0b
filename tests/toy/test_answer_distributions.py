"""Equation 4 by brute force: over all answers, one after the other, in plain Python."""

import itertools
import math

import pytest
import torch

from kd_lab.divergences import forward_kl, jensen_shannon, reverse_kl
from toy.answer_distributions import (
    divergence_by_position,
    divergence_of_answers,
    prefix_logp,
    random_distributions,
)

WORDS, LENGTH = 3, 4
TEACHER, STUDENT = (random_distributions(WORDS, LENGTH, seed) for seed in (0, 1))


def probability(model, answer):
    """The product over an answer's words."""
    total, row = 0.0, 0
    for t, word in enumerate(answer):
        total += model[t][row, word].item()
        row = row * WORDS + word
    return math.exp(total)


ANSWERS = list(itertools.product(range(WORDS), repeat=LENGTH))
P, Q = ([probability(model, answer) for answer in ANSWERS] for model in (TEACHER, STUDENT))


def test_answers_have_the_probability_of_their_words():
    assert prefix_logp(TEACHER)[-1].exp().tolist() == pytest.approx(P)
    assert sum(P) == pytest.approx(1)
    assert all(prefix.exp().sum().item() == pytest.approx(1) for prefix in prefix_logp(TEACHER))


@pytest.mark.parametrize(
    ("divergence", "first", "second", "writer", "other"),
    [(forward_kl, P, Q, TEACHER, STUDENT), (reverse_kl, Q, P, STUDENT, TEACHER)],
)
def test_equation_4(divergence, first, second, writer, other):
    whole = sum(a * math.log(a / b) for a, b in zip(first, second, strict=True))
    assert divergence_of_answers(divergence, TEACHER, STUDENT) == pytest.approx(whole, rel=1e-12)
    terms = divergence_by_position(divergence, TEACHER, STUDENT, writer)
    assert terms.shape == (LENGTH,)
    assert terms.sum().item() == pytest.approx(whole, rel=1e-12)
    # And not with the other model's prefixes.
    wrong = divergence_by_position(divergence, TEACHER, STUDENT, other)
    assert wrong[0].item() == terms[0].item()  # there is only one empty prefix
    assert abs(wrong.sum().item() / whole - 1) > 0.01


def test_jensen_shannon_does_not_decompose():
    """Its mixture of whole answers is no mixture position by position."""
    whole = divergence_of_answers(jensen_shannon, TEACHER, STUDENT)
    assert 0 < whole < math.log(2)
    for writer in TEACHER, STUDENT:
        terms = divergence_by_position(jensen_shannon, TEACHER, STUDENT, writer)
        assert abs(terms.sum().item() / whole - 1) > 0.01


def test_seeds_repeat():
    again = random_distributions(WORDS, LENGTH, 0)
    assert all(torch.equal(a, b) for a, b in zip(again, TEACHER, strict=True))
