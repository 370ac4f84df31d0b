"""Checks of notebook 6's exercises, each against something independent of a solution."""

from collections.abc import Callable

from book.exercises.expected import expect


def break_even(answer: Callable[[float, float, float], float]) -> None:
    """Answers at which v₁/n and v₂/n + b² are equal, found by halving an interval."""
    for unbiased, biased, bias in ((4.0, 1.0, 0.5), (90.0, 10.0, 0.64)):
        low, high = 1e-6, 1e9
        for _ in range(200):
            n = (low + high) / 2
            low, high = (n, high) if unbiased / n > biased / n + bias**2 else (low, n)
        mistakes = {
            "the bias has its square there": (unbiased - biased) / bias,
            "the biased estimate has a variance, too": unbiased / bias**2,
            "its sign is turned": -low,
        }
        where = f"v₁ = {unbiased:g}, v₂ = {biased:g}, b = {bias:g}"
        expect(answer(unbiased, biased, bias), low, where, mistakes)
