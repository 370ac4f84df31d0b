"""The figures of a run: means over trained tokens, of all micro-batches and processes.

A sum over tokens and the number of tokens come from each micro-batch, and are divided at the end:
so a figure does not depend on how the rows are split into batches and processes. All processes
reduce the same list of numbers, whatever each of them has measured.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

NATS = ("divergence", "cross_entropy", "forward_kl", "reverse_kl")  # per trained token
FIGURES = (*NATS, "hidden_distance")  # 1 - cosine, in training alone
LOSSES = ("loss", *NATS)  # what evaluation measures; the smaller the better
SFT_LOSSES = ("loss", "cross_entropy")  # without a teacher that is a model


class TokenMeans:
    """Sums over tokens of one process, and their means over all processes."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.num_tokens = 0
        self.sums: list[dict[str, Tensor | float]] = []  # of each micro-batch, not waited for
        self.is_empty = True

    def add(self, num_tokens: int, **sums: Tensor | float) -> None:
        """Add a micro-batch's sums over its trained tokens; NaN is a figure that it has not."""
        unknown = {*sums} - {*FIGURES}
        if unknown:
            raise ValueError(f"unknown figures {sorted(unknown)} (known: {', '.join(FIGURES)})")
        self.is_empty = False
        self.num_tokens += num_tokens
        self.sums.append(sums)

    def take(self, accelerator: "Accelerator") -> dict[str, float]:
        """The means over the tokens of all processes, and a new start; every process calls it."""
        totals: dict[str, float] = {}
        for sums in self.sums:
            for name, value in sums.items():
                if not math.isnan(value):
                    totals[name] = totals.get(name, 0.0) + float(value)
        mine = torch.tensor(
            [
                self.num_tokens,
                *(totals.get(name, 0.0) for name in FIGURES),
                *(name in totals for name in FIGURES),
            ],
            dtype=torch.float32,
        )
        tokens, *rest = accelerator.reduce(mine.to(accelerator.device), "sum").tolist()
        self.clear()
        sums, processes = rest[: len(FIGURES)], rest[len(FIGURES) :]
        return {
            name: value / max(tokens, 1)
            for name, value, count in zip(FIGURES, sums, processes, strict=True)
            if count
        }


def loss_of(figures: dict[str, float], alpha: float, temperature: float) -> float:
    """The loss that the figures add up to, in nats; cross-entropy alone without a divergence."""
    if "divergence" not in figures:
        return figures["cross_entropy"]
    divergence = alpha * temperature**2 * figures["divergence"]
    return divergence + (1 - alpha) * figures["cross_entropy"]
