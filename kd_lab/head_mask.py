"""The teacher's head: its most likely tokens, as many as hold a share of the mass."""

import torch
import torch.nn.functional as F
from torch import Tensor


def head_mask(p: Tensor, mu: float, crossing: str = "head") -> Tensor:
    """The smallest set of most likely tokens whose mass reaches ``mu``, for AKL.

    Nothing is sorted. A teacher that knows what comes next has a head of a few tokens, found among
    the 64 largest; in the rows whose head is longer, bisection finds the probability at which the
    mass is reached. A GPU is waited for once, to learn which rows these are.

    Args:
        p: probabilities, [..., V].
    Returns:
        a mask of the head, bool, [..., V].
    """
    if mu >= 1:  # a rounded sum may reach 1 without words that the student likes, or never
        return p > 0
    rows = p.reshape(-1, p.shape[-1])  # [R, V]
    k = min(64, rows.shape[-1])
    top, token = rows.topk(k)  # [R, k]
    mass = top.cumsum(-1)
    if crossing == "head":
        in_head = F.pad(mass[:, :-1], (1, 0)) < mu
    else:
        in_head = mass <= mu
        in_head[:, 0] = True
    # A token of probability 0 helps no set to reach mu, though the rounded mass may ask for it.
    in_head &= top > 0
    head = torch.zeros_like(rows, dtype=torch.bool).scatter_(-1, token, in_head)
    if k < rows.shape[-1]:
        longer = (mass[:, -1] <= mu).nonzero().squeeze(-1)
        if len(longer):
            head[longer] = _long_head_mask(rows[longer], top[longer, -1], mu, crossing)
    return head.view(p.shape)


def _long_head_mask(rows: Tensor, upper: Tensor, mu: float, crossing: str) -> Tensor:
    """The head of rows [R, V] in which the tokens from ``upper`` [R] upwards do not reach mu."""
    # Positive floats are ordered as the integers of the same bits: halving an interval of integers
    # arrives at the crossing token's very probability, in as many steps as it has bits. A narrower
    # interval is not waited for: the steps left change nothing, and to look would cost more.
    integers = torch.int64 if rows.dtype == torch.float64 else torch.int32
    bits = torch.iinfo(integers).bits - 1  # the sign's is 0
    low = torch.zeros_like(upper).view(integers)[:, None]
    high = upper.contiguous().view(integers)[:, None] + 1
    scratch = torch.empty_like(rows)
    for _ in range(bits):
        middle = low + (high - low) // 2
        # A comparison written as 0s and 1s, ten times as fast on a CPU as torch.where.
        at_least = torch.ge(rows, middle.view(rows.dtype), out=scratch)
        mass = at_least.mul_(rows).sum(-1, keepdim=True)
        low, high = torch.where(mass >= mu, middle, low), torch.where(mass >= mu, high, middle)
    threshold = low.view(rows.dtype)
    above, level = rows > threshold, (rows == threshold) & (rows > 0)
    room = (mu - torch.mul(rows, above, out=scratch).sum(-1, keepdim=True)) / threshold
    # Of equally likely tokens at the crossing as many as it takes, the lowest ids first.
    count = room.ceil() if crossing == "head" else room.floor()
    return above | (level & (level.cumsum(-1) <= count))
