"""The distillation loss of two distributions: chunk by chunk, gradients made in the forward pass.

A chunk of tokens is projected, compared, turned into the gradient of its logits in place and
multiplied out at once:

    for each chunk of tokens:                        matrix products
        S = student_hidden · student_headᵀ           1   the chunk's student logits
        T = teacher_hidden · teacher_headᵀ           2   the chunk's teacher logits
        S ← ∂loss/∂S                                     a block of positions at a time (tiles.py)
        ∂loss/∂student_hidden = S · student_head     3
        ∂loss/∂student_head  += Sᵀ · student_hidden  4

Nothing is computed twice. Memory is a tile and a half of [chunk, vocabulary] (the teacher's is half
as high), however many tokens there are. In autocast the operands of all products have its
dtype. What they sum up to never has fewer than 32 bits (products.py): logits, softmax, divergence
and the gradient of the logits are float32, and this gradient is rounded to be an operand itself.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kd_lab.loss.by_device import gradient_of, scale, tile_loss, tokens_at_a_time
from kd_lab.loss.products import (
    ALIGNMENT,
    product,
    rounded_parts,
    sum_dtype,
    vocabulary_parts,
)
from kd_lab.loss.tiles import Objective, StoredDistribution, TileLoss, is_zero

# Of the loss by itself and of a cache, as bench_fused_loss.json measures it. A training takes 1,024
# (DistilConfig): the head's gradient is read and written once a chunk, and so half as often.
CHUNK_SIZE = 512


class LiveDistribution(NamedTuple):
    """A model's next-token distributions: last hidden states [n, H], LM head [V, H], bias [V]."""

    hidden: Tensor
    head: Tensor
    bias: Tensor | None = None


class DistillationLoss(NamedTuple):
    """What the loss returns; only ``loss`` carries a gradient."""

    loss: Tensor  # w_D·T²·divergence + w_C·cross_entropy, each position with its weights
    # Plain means whatever the weights, so that runs can be compared, in nats per trained token:
    divergence: Tensor  # without the factor T²; NaN if no teacher was given
    cross_entropy: Tensor
    num_tokens: int  # trained tokens


def distillation_loss(
    student: LiveDistribution,
    teacher: LiveDistribution | StoredDistribution | None,
    targets: Tensor,
    objective: Objective,
    *,
    vocab_size: int,
    chunk_size: int = CHUNK_SIZE,
) -> DistillationLoss:
    """The objective's sum over n positions, all of them trained, with gradients to the student.

    Args:
        student, teacher: their distributions at the n positions. No teacher at hand leaves the
            cross-entropy alone.
        targets: the token that comes next at each position, [n].
        objective: the divergence, its weights and temperature, and what the sum is divided by.
        vocab_size: rows that are real tokens in both heads; the softmax runs over these.
        chunk_size: tokens projected at a time, twice as many where kernels run, which need no
            scratch; memory grows with it, the loss does not change.
    Raises:
        ValueError: shapes or settings that do not fit.
        FloatingPointError: a logit or a weight that is infinite or NaN; says whose, and at which
            position.
    """
    if not 0 < objective.temperature < math.inf:
        raise ValueError(f"temperature must be positive, not {objective.temperature}")
    if len(targets):
        check_divisor(objective.num_items)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    for whose, side in ("teacher", teacher), ("student", student):
        if not isinstance(side, LiveDistribution):
            continue
        if list(side.hidden.shape) != [len(targets), side.head.shape[-1]]:
            raise ValueError(
                f"{whose}_hidden is {list(side.hidden.shape)}, expected "
                f"{[len(targets), side.head.shape[-1]]} from {len(targets)} targets and "
                f"{whose}_head {list(side.head.shape)}"
            )
        if vocab_size > len(side.head):
            raise ValueError(f"vocab_size {vocab_size} exceeds the {whose}'s {len(side.head)} rows")
    check_tokens("labels", targets, vocab_size)
    problem = Problem(targets, teacher, objective, vocab_size, chunk_size)
    loss, divergence, cross_entropy = ChunkedPass.apply(
        student.hidden, student.head, student.bias, problem, torch.is_grad_enabled()
    )
    return DistillationLoss(loss, divergence, cross_entropy, num_tokens=len(targets))


def check_tokens(what: str, tokens: Tensor, vocab_size: int) -> None:
    """Refuse tokens outside the vocabulary. A GPU is not waited for: it stops by itself."""
    if tokens.device.type == "cuda":
        inside = ((tokens >= 0) & (tokens < vocab_size)).all()
        torch._assert_async(inside, f"{what} outside the {vocab_size} rows of the vocabulary")
        return
    numbers = tokens.cpu().numpy()
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < vocab_size:
        raise ValueError(
            f"{what} go from {numbers.min()} to {numbers.max()}, outside the {vocab_size} rows of "
            "the vocabulary"
        )


def check_divisor(num_items: float | Tensor) -> None:
    """Refuse a divisor that is no positive number. A GPU is not waited for: it stops by itself."""
    if isinstance(num_items, Tensor) and num_items.device.type == "cuda":
        inside = (num_items > 0) & (num_items < math.inf)
        torch._assert_async(inside, "num_items must be a positive number")
        return
    number = num_items.double().cpu().numpy() if isinstance(num_items, Tensor) else num_items
    if not 0 < number < math.inf:
        raise ValueError(f"num_items must be a positive number, not {number}")


@dataclass
class Problem:
    """All inputs of the loss except the student's own tensors."""

    targets: Tensor  # [n]
    teacher: LiveDistribution | StoredDistribution | None
    objective: Objective
    vocab_size: int
    chunk_size: int


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
        for gradient in gradients:
            if gradient is not None:
                scale(gradient, grad_loss)
        return *gradients, None, None


def _run(
    hidden: Tensor, head: Tensor, bias: Tensor | None, problem: Problem, wanted: tuple[bool, ...]
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor | None, ...]]:
    """The three parts of the loss, and its gradients to hidden [n, H], head [V, H] and bias [V]."""
    want_hidden, want_head, want_bias = wanted
    n, vocab_size = len(hidden), problem.vocab_size
    student = Projection(LiveDistribution(hidden, head, bias), vocab_size)
    chunk_size = tokens_at_a_time(problem.chunk_size, hidden.device, sum_dtype(student.dtype))
    teacher = problem.teacher
    logits_of_teacher = None
    if isinstance(teacher, LiveDistribution):
        logits_of_teacher = Projection(teacher, vocab_size)
    hidden_gradient = None
    if want_hidden:
        is_narrow = sum_dtype(student.dtype) != student.dtype
        hidden_gradient = torch.zeros_like(
            hidden, dtype=hidden.dtype if is_narrow else student.dtype
        )
    head_gradient = HeadGradient(head, vocab_size, student.dtype, n > chunk_size)
    bias_gradient = None
    if bias is not None and want_bias:
        bias_gradient = torch.zeros_like(bias, dtype=sum_dtype(bias.dtype))
    losses = []
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, n, chunk_size):
            chunk = slice(start, start + chunk_size)
            tile = student.logits(chunk)  # [C, vocab_size]
            # The teacher's logits are needed once, row by row: half a tile at a time is enough.
            for block in _halves(start, len(tile), chunk_size):
                compared: Tensor | StoredDistribution | None = None
                if logits_of_teacher is not None:
                    compared = logits_of_teacher.logits(block)
                elif isinstance(teacher, StoredDistribution):
                    compared = teacher.at(block)
                part = tile[block.start - start : block.stop - start]
                here = problem.objective.at(block)
                targets = problem.targets[block]
                losses.append(tile_loss(part, compared, targets, here, any(wanted), student.dtype))
            # and the tile is now the gradient of its logits
            gradient = gradient_of(tile, compared, problem.objective.divergence, student.dtype)
            if hidden_gradient is not None or want_head:
                _multiply_out(
                    gradient, student, chunk, hidden_gradient, head_gradient if want_head else None
                )
            if bias_gradient is not None:
                bias_gradient[:vocab_size] += gradient.sum(0, dtype=bias_gradient.dtype)
    parts = _means(losses, problem.objective, hidden)
    if hidden_gradient is not None:
        hidden_gradient = hidden_gradient.to(hidden.dtype)
    if bias is not None and bias_gradient is not None:
        bias_gradient = bias_gradient.to(bias.dtype)
    return parts, (hidden_gradient, head_gradient.total() if want_head else None, bias_gradient)


def _multiply_out(
    tile: Tensor,
    student: "Projection",
    chunk: slice,
    hidden_gradient: Tensor | None,
    head_gradient: "HeadGradient | None",
) -> None:
    """From ``tile`` [C, V], the gradient of logits, to those of hidden states and head."""
    total = None  # of the chunk's hidden states, [C, H]
    sums = sum_dtype(tile.dtype)
    if hidden_gradient is not None:
        total = hidden_gradient[chunk]
        if total.dtype != sums:  # summed over parts of the vocabulary, and rounded once
            total = torch.empty_like(total, dtype=sums)
    for vocab, part in rounded_parts(tile, student.dtype):
        if total is not None:
            product(part, student.head[vocab], total, add=vocab.start > 0)
        if head_gradient is not None:
            head_gradient.add(part, student.hidden[chunk], vocab)
    if hidden_gradient is not None and total is not None and hidden_gradient.dtype != sums:
        hidden_gradient[chunk] = total


def _halves(start: int, size: int, chunk_size: int) -> list[slice]:
    half = -(-chunk_size // 2)
    return [slice(start + a, start + min(a + half, size)) for a in range(0, size, half)]


def _means(
    losses: list[TileLoss], objective: Objective, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, divergence and cross-entropy over ``num_items``; refuses what is not finite."""
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    if not losses:
        nothing = torch.zeros((), dtype=dtype, device=hidden.device)
        return nothing, nothing.clone(), nothing.clone()
    divergence, cross_entropy, student_finite, teacher_finite = (
        torch.cat(part) for part in zip(*losses, strict=True)
    )
    parts = {"the student's logits": student_finite, "the teacher's logits": teacher_finite}
    for name, weights in objective.weights._asdict().items():
        if isinstance(weights, Tensor):
            parts[f"{name}_weights"] = weights.isfinite()
    # A GPU is waited for, here alone.
    is_finite = bool(torch.stack([finite.all() for finite in parts.values()]).all())
    for what, finite in parts.items():
        if not is_finite and not finite.all():
            broken = (~finite).nonzero()
            raise FloatingPointError(
                f"{what} are infinite or NaN at trained position {int(broken[0])} "
                f"({len(broken)} of {len(finite)} trained positions)"
            )
    loss = objective.weights.cross_entropy * cross_entropy
    if not is_zero(objective.weights.divergence):
        weight = objective.weights.divergence * objective.temperature**2
        loss = loss + weight * divergence
    means = [
        (part.sum() / objective.num_items).to(dtype) for part in (loss, divergence, cross_entropy)
    ]
    return means[0], means[1], means[2]


class Projection:
    """One model's products with its head: the logits of a block of positions at a time."""

    def __init__(self, model: LiveDistribution, vocab_size: int) -> None:
        hidden, head, bias = model
        device = head.device.type
        autocast = torch.is_autocast_enabled(device)
        # of the operands; the logits' own is never narrower than float32
        self.dtype = torch.get_autocast_dtype(device) if autocast else head.dtype
        self.hidden = hidden.detach().to(self.dtype)  # [n, H]
        # [vocab_size, H], a view of a head of that dtype
        self.head = head.detach()[:vocab_size].to(self.dtype)
        self.bias = None
        if bias is not None:
            self.bias = bias.detach()[:vocab_size].to(self.dtype).to(sum_dtype(self.dtype))
        self.tile: Tensor | None = None

    def logits(self, block: slice) -> Tensor:
        """Logits of a block of positions, [C, vocab_size], in memory that the next call reuses."""
        hidden = self.hidden[block]
        if self.tile is None:
            # 151,665 logits a row, one after the other, would make all products a third slower.
            stride = -(-len(self.head) // ALIGNMENT) * ALIGNMENT
            self.tile = hidden.new_empty(len(hidden), stride, dtype=sum_dtype(self.dtype))
        tile = self.tile[: len(hidden), : len(self.head)]
        if self.bias is not None and tile.dtype == self.dtype:
            return torch.addmm(self.bias, hidden, self.head.t(), out=tile)
        for vocab in vocabulary_parts(len(self.head), self.dtype, tile.device):
            product(hidden, self.head[vocab].t(), tile[:, vocab])
        return tile if self.bias is None else tile.add_(self.bias)


class HeadGradient:
    """The gradient to the head, [V, H], summed over the chunks into one buffer."""

    def __init__(self, head: Tensor, vocab_size: int, dtype: torch.dtype, several: bool) -> None:
        self.head, self.vocab_size = head, vocab_size
        # A sum over many chunks, each rounded to bfloat16, would drift: it is kept in float32.
        self.sum_dtype = head.dtype if head.dtype == dtype and not several else sum_dtype(dtype)
        self.sum: Tensor | None = None
        self.begun: set[int] = set()  # the first rows of the parts that hold a sum

    def add(self, tile: Tensor, hidden: Tensor, vocab: slice = slice(0, None)) -> None:
        """Add tileᵀ · hidden [C, H]; the tile's columns are these rows of the vocabulary."""
        if self.sum is None:
            self.sum = torch.zeros_like(self.head, dtype=self.sum_dtype)
        shared = self.sum[: self.vocab_size]  # the rows above are padding and stay 0
        product(tile.t(), hidden, shared[vocab], add=vocab.start in self.begun)
        self.begun.add(vocab.start)

    def total(self) -> Tensor:
        if self.sum is None:
            return torch.zeros_like(self.head)
        return self.sum.to(self.head.dtype)
