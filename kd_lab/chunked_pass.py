"""The fused loss's own forward and backward pass: chunk by chunk, gradients made on the way.

What is settled before the first product is a ``Problem``; kd_lab/fused_loss.py checks and fills it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kd_lab.head_products import HeadGradient, LiveLaw, Projection
from kd_lab.logit_tiles import Objective, StoredLaw, TileLoss, Weights, tile_loss


@dataclass
class Problem:
    """All that is settled before the first product, but for the student's own tensors."""

    trained: Tensor  # positions that have a label, [n]
    targets: Tensor  # their labels, [n]
    weights: Weights  # [n]
    teacher: LiveLaw | StoredLaw | None
    objective: Objective
    chunk_size: int
    num_items: float
    rows: int  # of the vocabulary: those that both heads have

    def pick(self, per_position: Tensor) -> Tensor:
        """The trained positions of a tensor [N, ...]; a copy only where some are left out."""
        if len(self.trained) == len(per_position):
            return per_position.detach()
        return per_position.detach()[self.trained]


class ChunkedPass(torch.autograd.Function):
    """Loss and gradients in the forward pass; the backward pass hands the gradients over."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        problem: Problem,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wanted = tuple(need and grad_enabled for need in ctx.needs_input_grad[:3])
        parts, gradients = _run(hidden, head, bias, problem, wanted)
        ctx.save_for_backward(hidden, head, bias)
        ctx.problem, ctx.wanted, ctx.gradients = problem, wanted, [gradients]
        ctx.mark_non_differentiable(*parts[1:])
        return parts

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # The buffers are handed over, not copied, so that autograd makes the [V, H] one the head's
        # .grad as it is. A second backward pass through the same graph computes them again.
        if ctx.gradients:
            gradients = ctx.gradients.pop()
        else:
            hidden, head, bias = ctx.saved_tensors
            _, gradients = _run(hidden, head, bias, ctx.problem, ctx.wanted)
        if grad_loss.item() != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(grad_loss)
        return *gradients, None, None


def _run(
    hidden: Tensor, head: Tensor, bias: Tensor | None, problem: Problem, wanted: tuple[bool, ...]
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor | None, ...]]:
    """The three parts of the loss, and its gradients to hidden [N, H], head [V, H] and bias [V]."""
    want_hidden, want_head, want_bias = wanted
    n, rows = len(problem.trained), problem.rows
    student = Projection(problem.pick(hidden), head, bias, rows)
    teacher: Projection | StoredLaw | None = None
    if isinstance(problem.teacher, StoredLaw):
        teacher = StoredLaw(*map(problem.pick, problem.teacher))
    elif problem.teacher is not None:
        live = problem.teacher
        teacher = Projection(problem.pick(live.hidden), live.head, live.bias, rows)
    hidden_gradient = torch.zeros_like(student.hidden) if want_hidden else None
    head_gradient = HeadGradient(head, rows, student.dtype, n > problem.chunk_size)
    bias_gradient = torch.zeros_like(bias) if bias is not None and want_bias else None
    weights = Weights(*(part / problem.num_items for part in problem.weights))
    losses = []
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, n, problem.chunk_size):
            chunk = slice(start, start + problem.chunk_size)
            tile = student.rows(chunk)  # logits, [C, rows]
            # The teacher's logits are needed once, row by row: half a tile at a time is enough.
            for some in _halves(start, len(tile), problem.chunk_size):
                law = None if teacher is None else teacher.rows(some)
                part = tile[some.start - start : some.stop - start]
                targets = problem.targets[some]
                here = weights.rows(some) if any(wanted) else None
                losses.append(tile_loss(part, law, targets, problem.objective, here))
            # and the tile is now the gradient of its logits
            if hidden_gradient is not None:
                torch.mm(tile, student.head, out=hidden_gradient[chunk])
            if want_head:
                head_gradient.add(tile, student.hidden[chunk])
            if bias_gradient is not None:
                bias_gradient[:rows] += tile.sum(0)
    parts = _means(losses, problem, hidden)
    if hidden_gradient is not None:
        hidden_gradient = hidden_gradient.to(hidden.dtype)
        if n < len(hidden):
            everywhere = torch.zeros_like(hidden)
            hidden_gradient = everywhere.index_copy_(0, problem.trained, hidden_gradient)
    return parts, (hidden_gradient, head_gradient.total() if want_head else None, bias_gradient)


def _halves(start: int, size: int, chunk_size: int) -> list[slice]:
    half = -(-chunk_size // 2)
    return [slice(start + a, start + min(a + half, size)) for a in range(0, size, half)]


def _means(
    losses: list[TileLoss], problem: Problem, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, divergence and cross-entropy over ``num_items``; refuses what is not finite."""
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    if not losses:
        nothing = torch.zeros((), dtype=dtype, device=hidden.device)
        return nothing, nothing.clone(), nothing.clone()
    divergence, cross_entropy, student_finite, teacher_finite = (
        torch.cat(part) for part in zip(*losses, strict=True)
    )
    for whose, finite in ("student", student_finite), ("teacher", teacher_finite):
        if not finite.all():
            broken = problem.trained[~finite]
            raise FloatingPointError(
                f"the {whose}'s logits are infinite or NaN at position {int(broken[0])} "
                f"({len(broken)} of {len(finite)} trained positions)"
            )
    alpha, temperature = problem.objective.alpha, problem.objective.temperature
    loss = (1 - alpha) * (problem.weights.cross_entropy * cross_entropy)
    if alpha > 0:
        loss = loss + alpha * temperature**2 * (problem.weights.divergence * divergence)
    means = [
        (part.sum() / problem.num_items).to(dtype) for part in (loss, divergence, cross_entropy)
    ]
    return means[0], means[1], means[2]
