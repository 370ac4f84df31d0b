"""Checks of notebook 3's exercises, each against something independent of a solution."""

from collections.abc import Callable

import torch

from book.exercises.expected import expect


def distance_at_the_start(answer: Callable[[int], float]) -> None:
    """‖A·B‖ of standard normal A [64, r] and B [r, 64]: the root of a mean over 400 draws."""
    generator = torch.Generator().manual_seed(0)
    for rank in (2, 64):
        a = torch.randn(400, 64, rank, generator=generator)
        b = torch.randn(400, rank, 64, generator=generator)
        size = (a @ b).square().sum((1, 2)).mean().sqrt()
        mistakes = {
            "that is its square": 64.0 * 64 * rank,
            "the root of r is missing": 64.0,
            "that is of r rows of 64": 8 * rank**0.5,
            "r, where its root belongs": 64.0 * rank,
        }
        expect(answer(rank), size, f"rank {rank}, a mean over draws", mistakes, rtol=0.02)
