"""The products with an LM head, some positions at a time: logits out, the head's gradient summed.

In autocast both run in its dtype; the gradient has the head's own, and is summed in no less than
float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 64  # elements: rows of logits begin where vector loads do, whatever the vocabulary
HEAD_ROWS = 2**14  # of a gradient, added up at a time where the sum has a wider dtype


class LiveLaw(NamedTuple):
    """A teacher whose last hidden states [N, H_t], head [V', H_t] and bias [V'] are at hand."""

    hidden: Tensor
    head: Tensor
    bias: Tensor | None


class Projection:
    """One model's side: the hidden states of the trained positions, and the head's shared rows."""

    def __init__(self, hidden: Tensor, head: Tensor, bias: Tensor | None, rows: int) -> None:
        device = head.device.type
        autocast = torch.is_autocast_enabled(device)
        self.dtype = torch.get_autocast_dtype(device) if autocast else head.dtype
        self.hidden = hidden.to(self.dtype)  # [n, H]
        self.head = head.detach()[:rows].to(self.dtype)  # [rows, H], a view of a head of that dtype
        self.bias = None if bias is None else bias.detach()[:rows].to(self.dtype)
        self.tile: Tensor | None = None

    def rows(self, some: slice) -> Tensor:
        """The logits of some positions, [C, rows], in memory that the next call uses again."""
        hidden = self.hidden[some]
        if self.tile is None:
            # 151,665 logits a row, one after the other, would make all products a third slower.
            stride = -(-len(self.head) // ALIGNMENT) * ALIGNMENT
            self.tile = hidden.new_empty(len(hidden), stride)
        tile = self.tile[: len(hidden), : len(self.head)]
        if self.bias is None:
            return torch.mm(hidden, self.head.t(), out=tile)
        return torch.addmm(self.bias, hidden, self.head.t(), out=tile)


class HeadGradient:
    """The gradient to the head, [V, H], summed over the chunks into one buffer."""

    def __init__(self, head: Tensor, rows: int, dtype: torch.dtype, several: bool) -> None:
        self.head, self.rows = head, rows
        # A sum over many chunks, each rounded to bfloat16, would drift: it is kept in float32.
        narrow = dtype in (torch.bfloat16, torch.float16)
        self.sum_dtype = torch.float32 if narrow and several else head.dtype
        self.sum: Tensor | None = None

    def add(self, tile: Tensor, hidden: Tensor) -> None:
        """Add tileᵀ [rows, C] · hidden [C, H]."""
        first = self.sum is None
        if self.sum is None:
            self.sum = torch.zeros_like(self.head, dtype=self.sum_dtype)
        shared = self.sum[: self.rows]  # the rows above are padding and stay 0
        if tile.dtype == self.sum_dtype:
            shared.addmm_(tile.t(), hidden, beta=0 if first else 1)
        else:
            for start in range(0, self.rows, HEAD_ROWS):
                some = slice(start, start + HEAD_ROWS)
                shared[some] += tile[:, some].t() @ hidden

    def total(self) -> Tensor:
        if self.sum is None:
            return torch.zeros_like(self.head)
        return self.sum.to(self.head.dtype)
