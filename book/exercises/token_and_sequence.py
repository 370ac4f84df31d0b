"""Checks of notebook 4's exercises, each against something independent of a solution."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from book.exercises.expected import expect


def divergence_of_answers(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
    """D(p‖q) of answers of two words, from the first [V] and the second [V, V]; by all answers."""
    random = torch.Generator().manual_seed(0)
    for size in (2, 4):
        p_first, q_first = torch.randn(2, size, generator=random, dtype=torch.float64).softmax(-1)
        seconds = torch.randn(2, size, size, generator=random, dtype=torch.float64)
        p_second, q_second = seconds.softmax(-1)
        expected = 0.0
        for a, b in itertools.product(range(size), repeat=2):
            p, q = p_first[a] * p_second[a, b], q_first[a] * q_second[a, b]
            expected += (p * (p / q).log()).item()
        first = (p_first * (p_first / q_first).log()).sum()
        second = (p_second * (p_second / q_second).log()).sum(-1)  # [V], by the first word
        mistakes = {
            "the prefix comes from q there": first + q_first @ second,
            "all prefixes count alike there": first + second.mean(),
            "that adds the second word's KL without a mean over the first": first + second.sum(),
            "that is the first word's alone": first,
        }
        found = answer(p_first, p_second, q_first, q_second)
        expect(found, expected, f"a random pair over {size} words", mistakes)


def two_estimates(answer: tuple[float, float]) -> None:
    """Variances of the log-ratio and of the sum of token-level KLs, over the two answers."""
    of_log_ratio, of_sum = answer
    p_first, q_first = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.float64)
    p_second = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    q_second = torch.tensor([[1.0, 0.0], [1 / 3, 2 / 3]], dtype=torch.float64)
    log_ratio = (p_first * p_second[:, 0] / (q_first * q_second[:, 0])).log()
    seconds = torch.xlogy(p_second, p_second / q_second.clamp(min=1e-300)).sum(-1)
    sums = torch.xlogy(p_first, p_first / q_first).sum() + seconds
    expect(of_log_ratio, log_ratio.var(correction=0), "of the log-ratio", atol=1e-6)
    mistakes = {
        "that is the standard deviation": sums.std(correction=0),
        "divide by the two answers, not by one less": sums.var(),
    }
    expect(of_sum, sums.var(correction=0), "of the sum", mistakes, rtol=0.01)
