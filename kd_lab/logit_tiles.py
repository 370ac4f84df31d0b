"""From a tile of logits to the loss at each position and the gradient of the logits, in place.

``tile_loss`` gets the student's logits of some tokens, [C, V], and leaves the gradient of the loss
in their place. It goes through the tile a few rows at a time: one row of 151,936 float32 logits is
0.6 MB, so that a handful of rows stays in a CPU's cache through the twenty passes that a divergence
takes, and the tile itself is read and written once.

Each exponential is taken once a model. With t and z the two models' logits, log-ratios are taken as
(t - z) - (log Σexp t - log Σexp z), the two sums in float64: where teacher and student nearly agree
the difference of the logits is exact, and no digit is lost to the size of a log-probability.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kd_lab.divergences import Divergence
from kd_lab.logit_gradients import by_autograd, closed_form

# About this many entries are worked on at a time on a CPU; a GPU takes the tile whole.
CPU_BLOCK_ENTRIES = 2**20


class StoredLaw(NamedTuple):
    """What was kept of a teacher: log-probabilities of k tokens; all others are one bucket."""

    logp: Tensor  # [C, k]
    tokens: Tensor  # [C, k]
    tail: Tensor  # of all others together, [C]

    def rows(self, some: slice) -> "StoredLaw":
        return StoredLaw(*(part[some] for part in self))


class Weights(NamedTuple):
    """How much each position counts in the two parts of the loss, float64."""

    divergence: Tensor  # [C]
    cross_entropy: Tensor  # [C]

    def rows(self, some: slice) -> "Weights":
        return Weights(self.divergence[some], self.cross_entropy[some])


@dataclass(frozen=True)
class Objective:
    """alpha·T²·D(p_T, q_T) + (1-alpha)·cross-entropy."""

    divergence: Divergence
    alpha: float
    temperature: float


class TileLoss(NamedTuple):
    """At each position of the tile, [C]."""

    divergence: Tensor  # nats, float64
    cross_entropy: Tensor  # nats, float64
    student_finite: Tensor  # bool: whether all its logits are
    teacher_finite: Tensor


class Law(NamedTuple):
    """A softmax over the vocabulary."""

    logits: Tensor  # over the temperature, [R, V]
    probs: Tensor  # [R, V]
    log_sum: Tensor  # log Σ exp(logits), float64, [R, 1]
    finite: Tensor  # whether all logits are, [R]


def tile_loss(
    student: Tensor,
    teacher: Tensor | StoredLaw | None,
    targets: Tensor,
    objective: Objective,
    weights: Weights | None,
) -> TileLoss:
    """The loss of a tile, and the gradient of its logits in their place.

    Args:
        student: logits, [C, V]; becomes the gradient to them of the weighted sum of the loss. With
            weights None it is not wanted, and what is left in the tile means nothing.
        teacher: logits [C, V], overwritten; or a stored law; or None for no divergence (then NaN).
        targets: the next tokens, [C].
    """
    count, vocab_size = student.shape
    block_size = count if student.is_cuda else max(1, CPU_BLOCK_ENTRIES // vocab_size)
    wide = torch.float64 if student.dtype == torch.float64 else torch.float32
    scratch = Scratch(min(block_size, count), vocab_size, wide, student.device)
    parts = []
    for start in range(0, count, block_size):
        rows = slice(start, start + block_size)
        logits = scratch.widened("student", student[rows])
        law = teacher
        if isinstance(law, StoredLaw):
            law = law.rows(rows)
        elif law is not None:
            law = scratch.widened("teacher", law[rows])
        some = None if weights is None else weights.rows(rows)
        parts.append(_block_loss(logits, law, targets[rows], objective, some, scratch))
        if weights is not None and logits.dtype != student.dtype:
            student[rows] = logits
    return TileLoss(*(torch.cat(part) for part in zip(*parts, strict=True)))


class Scratch:
    """The few block-sized buffers that all blocks of a tile share."""

    def __init__(
        self, rows: int, vocab_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.rows, self.vocab_size, self.dtype, self.device = rows, vocab_size, dtype, device
        self.buffers: dict[str, Tensor] = {}

    def take(self, name: str, rows: int) -> Tensor:
        """An uninitialised [rows, V]; the same memory each time for the same name."""
        if name not in self.buffers:
            self.buffers[name] = torch.empty(
                self.rows, self.vocab_size, dtype=self.dtype, device=self.device
            )
        return self.buffers[name][:rows]

    def widened(self, name: str, logits: Tensor) -> Tensor:
        """The logits themselves, or a copy where their own precision is too low to compute in."""
        if logits.dtype == self.dtype:
            return logits
        return self.take(name, len(logits)).copy_(logits)


def _block_loss(
    logits: Tensor,
    teacher: Tensor | StoredLaw | None,
    targets: Tensor,
    objective: Objective,
    weights: Weights | None,
    scratch: Scratch,
) -> TileLoss:
    size, alpha, temperature = len(logits), objective.alpha, objective.temperature
    targets = targets[:, None]
    plain = _law(logits, out=scratch.take("q", size))  # the student at temperature 1
    cross_entropy = (plain.log_sum - logits.gather(-1, targets)).squeeze(-1)
    divergence = torch.full_like(cross_entropy, torch.nan)
    teacher_finite = torch.ones_like(plain.finite)
    gradient = None
    if teacher is not None:
        student = plain
        if temperature != 1:
            student = _law(logits.div_(temperature), out=scratch.take("q_T", size))
        if isinstance(teacher, StoredLaw):
            divergence, gradient = _compare_stored(student, teacher, objective.divergence)
        else:
            if temperature != 1:
                teacher.div_(temperature)
            law = _law(teacher, out=scratch.take("p", size))
            teacher_finite = law.finite
            divergence, gradient = _compare_live(student, law, objective.divergence)
    if weights is not None:
        on_divergence, on_targets = (weight[:, None].to(logits.dtype) for weight in weights)
        on_targets = on_targets * (1 - alpha)  # [R, 1]
        if gradient is None or alpha == 0:
            torch.mul(plain.probs, on_targets, out=logits)
        else:
            torch.mul(gradient, on_divergence * (alpha * temperature), out=logits)
            if alpha < 1:
                logits.addcmul_(plain.probs, on_targets)
        logits.scatter_add_(-1, targets, -on_targets)
    return TileLoss(divergence.double(), cross_entropy, plain.finite, teacher_finite)


def _law(logits: Tensor, out: Tensor) -> Law:
    highest = logits.amax(-1, keepdim=True)
    lowest = logits.amin(-1, keepdim=True)
    probs = torch.softmax(logits, -1, out=out)
    # The likeliest token has exp(0) over the sum: the sum's logarithm, without another exponential.
    log_sum = highest.double() - probs.amax(-1, keepdim=True).double().log_()
    return Law(logits, probs, log_sum, (lowest.isfinite() & highest.isfinite()).squeeze(-1))


def _compare_live(student: Law, teacher: Law, divergence: Divergence) -> tuple[Tensor, Tensor]:
    """Divergence [R] and its gradient to the student's logits over T, [R, V]."""
    offset = (teacher.log_sum - student.log_sum).to(student.probs.dtype)
    log_ratio = teacher.logits.sub_(student.logits).sub_(offset)
    rule = closed_form(divergence)
    if rule is not None:
        return rule(log_ratio, teacher.probs, student.probs)
    student_logp = student.logits - student.log_sum.to(log_ratio.dtype)
    return by_autograd(divergence, log_ratio.add_(student_logp), student_logp)


def _compare_stored(
    student: Law, teacher: StoredLaw, divergence: Divergence
) -> tuple[Tensor, Tensor]:
    """The same between the two laws in k + 1 buckets: the k kept tokens, and all others."""
    dtype, vocab_size = student.probs.dtype, student.probs.shape[-1]
    log_sum = student.log_sum.to(dtype)
    teacher_logp = teacher.logp.to(dtype)
    student_logp = student.logits.gather(-1, teacher.tokens) - log_sum  # [R, k]
    if teacher.tokens.shape[-1] == vocab_size:
        value, on_tokens = by_autograd(divergence, teacher_logp, student_logp)
        return value, torch.empty_like(student.probs).scatter_(-1, teacher.tokens, on_tokens)
    others = student.logits.scatter(-1, teacher.tokens, -torch.inf)
    others_sum = others.logsumexp(-1, keepdim=True)
    value, on_buckets = by_autograd(
        divergence,
        torch.cat([teacher_logp, teacher.tail[:, None].to(dtype)], -1),
        torch.cat([student_logp, others_sum - log_sum], -1),
    )
    # A bucket's logit is the logsumexp of its tokens' logits: its gradient goes to them by share.
    gradient = others.sub_(others_sum).exp_().mul_(on_buckets[:, -1:])
    return value, gradient.scatter_(-1, teacher.tokens, on_buckets[:, :-1])
