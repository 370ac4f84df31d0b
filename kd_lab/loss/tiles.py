"""From a tile of logits to the loss at each position and the gradient of the logits, in place.

``tile_loss`` gets the student's logits of C tokens, [C, V], and leaves the gradient of the loss in
their place. It goes through the tile one block of positions at a time. The 151,936 float32 logits
of one position are 0.6 MB. So a small block stays in a CPU's cache through the twenty passes of a
divergence, and the tile itself is read and written once.

Each exponential is computed once a model. With t and z the two models' logits, a log-ratio is (t -
z) - (log Σexp t - log Σexp z), with both sums in float64 where the device has it. Where teacher and
student nearly agree, the difference of the logits is exact. So no digit is lost to the size of a
log-probability.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from kd_lab.divergences import Divergence
from kd_lab.loss.closed_forms import closed_form

# About this many entries are worked on at a time on a CPU; every other device takes the tile whole.
CPU_BLOCK_ENTRIES = 2**20


class StoredDistribution(NamedTuple):
    """The stored part of a teacher: log-probabilities of k tokens; all others are one bucket."""

    logp: Tensor  # [n, k]
    tokens: Tensor  # [n, k]
    tail: Tensor  # of all others together, [n]

    def at(self, block: slice) -> "StoredDistribution":
        return StoredDistribution(*(part[block] for part in self))


class Weights(NamedTuple):
    """The weights of the loss's two parts: a number for all positions, or one each, [n].

    Numbers are alpha and 1 - alpha; a policy gradient has its own weight at each position.
    """

    divergence: Tensor | float
    cross_entropy: Tensor | float

    def at(self, block: slice) -> "Weights":
        return Weights(*(part[block] if isinstance(part, Tensor) else part for part in self))


@dataclass(frozen=True)
class Objective:
    """Σ (w_D·T²·D(p_T, q_T) + w_C·cross-entropy) / num_items, over the positions of the loss."""

    divergence: Divergence
    weights: Weights
    temperature: float = 1.0
    num_items: float | Tensor = 1.0

    def at(self, block: slice) -> "Objective":
        return replace(self, weights=self.weights.at(block))


class TileLoss(NamedTuple):
    """At each position of the tile, [C]."""

    divergence: Tensor  # nats, in ``precise``
    cross_entropy: Tensor  # nats, likewise
    student_finite: Tensor  # bool: whether all its logits are
    teacher_finite: Tensor


class Softmax(NamedTuple):
    """A softmax over the vocabulary."""

    logits: Tensor  # over the temperature, [R, V]
    probs: Tensor  # [R, V]
    log_sum: Tensor  # log Σ exp(logits), in ``precise``, [R, 1]
    finite: Tensor  # whether all logits are, [R]


def tile_loss(
    student: Tensor,
    teacher: Tensor | StoredDistribution | None,
    targets: Tensor,
    objective: Objective,
    want_gradient: bool = True,
    is_compiled: bool = False,
) -> TileLoss:
    """The loss of a tile, and the gradient of its logits in their place.

    Args:
        student: logits, float32 or float64, [C, V]; becomes the gradient to them of the objective.
            Where that is not wanted, what is left in the tile means nothing.
        teacher: logits [C, V], overwritten; or a stored distribution; or None for no divergence
            (then NaN).
        targets: the next tokens, [C].
        is_compiled: whether the passes are joined by ``torch.compile``.
    """
    count, vocab_size = student.shape
    on_cpu = student.device.type == "cpu"
    block_size = max(1, CPU_BLOCK_ENTRIES // vocab_size) if on_cpu else count
    scratch = Scratch(min(block_size, count), vocab_size, student.dtype, student.device)
    block_loss = _compiled_block_loss() if is_compiled else _block_loss
    parts = []
    for start in range(0, count, block_size):
        block = slice(start, start + block_size)
        compared = teacher
        if isinstance(compared, StoredDistribution):
            compared = compared.at(block)
        elif compared is not None:
            compared = compared[block]
        here = objective.at(block)
        parts.append(
            block_loss(student[block], compared, targets[block], here, want_gradient, scratch)
        )
    return TileLoss(*(torch.cat(part) for part in zip(*parts, strict=True)))


class Scratch:
    """The few block-sized buffers that all blocks of a tile share."""

    def __init__(
        self, height: int, vocab_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.height, self.vocab_size, self.dtype, self.device = height, vocab_size, dtype, device
        self.buffers: dict[str, Tensor] = {}

    def take(self, name: str, size: int) -> Tensor:
        """An uninitialised [size, V]; the same memory each time for the same name."""
        if name not in self.buffers:
            self.buffers[name] = torch.empty(
                self.height, self.vocab_size, dtype=self.dtype, device=self.device
            )
        return self.buffers[name][:size]


def _block_loss(
    logits: Tensor,
    teacher: Tensor | StoredDistribution | None,
    targets: Tensor,
    objective: Objective,
    want_gradient: bool,
    scratch: Scratch,
) -> TileLoss:
    size, weights, temperature = len(logits), objective.weights, objective.temperature
    targets = targets[:, None]
    plain = _softmax(logits, out=scratch.take("q", size))  # the student at temperature 1
    cross_entropy = (plain.log_sum - logits.gather(-1, targets)).squeeze(-1)
    divergence = torch.full_like(cross_entropy, torch.nan)
    teacher_finite = torch.ones_like(plain.finite)
    gradient = None
    if teacher is not None:
        student = plain
        if temperature != 1:
            student = _softmax(logits.div_(temperature), out=scratch.take("q_T", size))
        if isinstance(teacher, StoredDistribution):
            divergence, gradient = _compare_stored(student, teacher, objective.divergence)
        else:
            if temperature != 1:
                teacher.div_(temperature)
            live = _softmax(teacher, out=scratch.take("p", size))
            teacher_finite = live.finite
            divergence, gradient = _compare_live(student, live, objective.divergence)
    if want_gradient:
        on_targets = factor(weights.cross_entropy, 1.0, objective, logits)
        if gradient is None or is_zero(weights.divergence):
            torch.mul(plain.probs, on_targets, out=logits)
        else:
            on_divergence = factor(weights.divergence, temperature, objective, logits)
            torch.mul(gradient, on_divergence, out=logits)
            if not is_zero(weights.cross_entropy):
                logits.addcmul_(plain.probs, on_targets)
        logits.scatter_add_(-1, targets, -on_targets.expand(size, 1))
    precise_divergence = divergence.to(cross_entropy.dtype)
    return TileLoss(precise_divergence, cross_entropy, plain.finite, teacher_finite)


@functools.cache
def _compiled_block_loss() -> Callable[..., TileLoss]:
    return torch.compile(_block_loss, dynamic=True)


def precise(device: torch.device) -> torch.dtype:
    """In what a number or two a position is kept: float64 where the device surely has it.

    Apple's MPS has none, and on Intel's XPU it depends on the chip.
    """
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32


def is_zero(weight: Tensor | float) -> bool:
    """Whether a part of the loss is left out everywhere."""
    return not isinstance(weight, Tensor) and weight == 0


def factor(weight: Tensor | float, times: float, objective: Objective, logits: Tensor) -> Tensor:
    """``times`` · weight / num_items in the dtype of the gradient, [R, 1] or [1, 1]."""
    if isinstance(weight, Tensor):
        return (weight / objective.num_items)[:, None].to(logits.dtype) * times
    one = torch.ones(1, 1, dtype=precise(logits.device), device=logits.device)
    return (one / objective.num_items).to(logits.dtype) * (weight * times)


def _softmax(logits: Tensor, out: Tensor) -> Softmax:
    highest = logits.amax(-1, keepdim=True)
    lowest = logits.amin(-1, keepdim=True)
    probs = torch.softmax(logits, -1, out=out)
    # The likeliest token has exp(0) over the sum: the sum's logarithm, without another exponential.
    dtype = precise(logits.device)
    log_sum = highest.to(dtype) - probs.amax(-1, keepdim=True).to(dtype).log_()
    return Softmax(logits, probs, log_sum, (lowest.isfinite() & highest.isfinite()).squeeze(-1))


def _compare_live(
    student: Softmax, teacher: Softmax, divergence: Divergence
) -> tuple[Tensor, Tensor]:
    """Divergence [R] and its gradient to the student's logits over T, [R, V]."""
    offset = (teacher.log_sum - student.log_sum).to(student.probs.dtype)
    log_ratio = teacher.logits.sub_(student.logits).sub_(offset)
    rule = closed_form(divergence)
    if rule is not None:
        return rule(log_ratio, teacher.probs, student.probs)
    student_logp = student.logits - student.log_sum.to(log_ratio.dtype)
    return by_autograd(divergence, log_ratio.add_(student_logp), student_logp)


def _compare_stored(
    student: Softmax, teacher: StoredDistribution, divergence: Divergence
) -> tuple[Tensor, Tensor]:
    """The same between two distributions in k + 1 buckets: k kept tokens, and all others."""
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


def by_autograd(
    divergence: Divergence, teacher_logp: Tensor, student_logp: Tensor
) -> tuple[Tensor, Tensor]:
    """Value [R] and gradient to the student's logits [R, V] of any divergence, from logp [R, V].

    ``student_logp`` is overwritten.
    """
    student_logp = student_logp.detach().requires_grad_()
    with torch.enable_grad():
        value = divergence(teacher_logp, student_logp)
        (gradient,) = torch.autograd.grad(value.sum(), student_logp)
    # What the backward pass of log_softmax does.
    mean = gradient.sum(-1, keepdim=True)
    return value.detach(), gradient.sub_(student_logp.detach().exp_().mul_(mean))
