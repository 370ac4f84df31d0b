"""Checks of notebook 5's exercises, each against something independent of a solution."""

from collections.abc import Callable

import torch
from torch import Tensor

from book.exercises.expected import expect, pair
from kd_lab.divergences import forward_kl

WARM = 1e4


def pushes(answer: Callable[[float, float], tuple[float, float]]) -> None:
    """Both gradients at a word with q and r = q/p, where D(q‖p) is left out."""
    for q, r in ((0.1, 0.5), (0.2, 4.0)):
        p = torch.tensor(q / r, dtype=torch.float64)
        forward = q - p
        reverse = q * torch.log(q / p)
        where = f"q = {q:g}, r = {r:g}"
        by_forward, by_reverse = pair(answer(q, r), where)
        turned = {"that is the other divergence's": reverse, "its sign is turned": -forward}
        expect(by_forward, forward, f"{where}, forward KL", turned)
        turned = {"that is the other divergence's": forward, "its sign is turned": -reverse}
        expect(by_reverse, reverse, f"{where}, reverse KL", turned)


def warm_limit(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """T²·D(p‖q) of logits [V] for a large T; taken at T = 10,000."""
    for size in (3, 50):
        z = torch.randn(2, size, generator=torch.manual_seed(size), dtype=torch.float64) + 1
        z[0] += 2  # a constant that softmax does not see
        expected = WARM**2 * forward_kl(*((one / WARM).log_softmax(-1) for one in z))
        d = z[0] - z[1]
        mistakes = {
            "half of it is right": d.var(correction=0),
            "the mean of d is still in it": d.square().mean() / 2,
            "divide by V, not by V - 1": d.var() / 2,
        }
        expect(answer(*z), expected, f"{size} random logits", mistakes, rtol=1e-2 / size)
