"""Where a student's distribution still differs from its teacher's: on the head or on the tail.

The head is the smallest set of the teacher's likeliest tokens whose mass reaches ``mu``; the tail
is all other tokens. Wu et al. 2024 (arXiv 2404.02657) divide so and weight forward and reverse KL
by the gaps Σ|p - q| on the two. We measure these gaps. We split the tail's gap by its sign: tokens
that the student overrates, and tokens that it underrates.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kd_lab.data.packed_rows import PackedRows
from kd_lab.divergences import forward_kl, reverse_kl
from kd_lab.head_mask import head_mask
from kd_lab.states import TOKENS_PER_BATCH, both_distributions

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel


class Gaps(NamedTuple):
    """How far q is from p: each is [...], or its mean over positions."""

    head: Tensor  # Σ|p - q| over the head
    tail: Tensor  # Σ|p - q| over the tail
    tail_excess: Tensor  # Σ(q - p) over the tail's tokens that q overrates
    tail_lack: Tensor  # Σ(p - q) over those that it underrates


def head_and_tail_gaps(teacher_logp: Tensor, student_logp: Tensor, mu: float = 0.5) -> Gaps:
    """The gaps at each position.

    Args:
        teacher_logp, student_logp: log-probabilities, [..., V].
        mu: the teacher's mass that the head must reach, in [0, 1].
    Returns:
        ``Gaps``, each [...]; ``tail`` is ``tail_excess`` + ``tail_lack``.
    """
    p = teacher_logp.exp()
    difference = student_logp.exp() - p  # [..., V]
    head = head_mask(p, mu)
    in_tail = torch.where(head, 0, difference)
    excess, lack = in_tail.clamp(min=0).sum(-1), in_tail.clamp(max=0).neg().sum(-1)
    on_head = torch.where(head, difference, 0).abs().sum(-1)
    return Gaps(on_head, excess + lack, excess, lack)


@torch.inference_mode()
def measure_gaps(
    student: "PreTrainedModel",
    teacher: "PreTrainedModel",
    rows: PackedRows,
    *,
    vocab_size: int,
    mu: float = 0.5,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> dict[str, float]:
    """Means over all trained tokens of rows.

    Args:
        student, teacher: in eval mode.
        vocab_size: rows of both heads that are real tokens.
        mu, tokens_per_batch: as in ``head_and_tail_gaps`` and ``both_distributions``.
    Returns:
        the gaps, ``forward_kl`` and ``reverse_kl`` (nats).
    """
    sums: list[Tensor] = []
    count = 0
    for row, _, p, q in both_distributions(
        student, teacher, rows, vocab_size=vocab_size, tokens_per_batch=tokens_per_batch
    ):
        measured = [*head_and_tail_gaps(p, q, mu), forward_kl(p, q), reverse_kl(p, q)]
        sums.append(torch.stack(measured).double().sum(-1))  # [6]
        count += len(row)
    means = torch.stack(sums).sum(0) / count
    return dict(zip([*Gaps._fields, "forward_kl", "reverse_kl"], means.tolist(), strict=True))
