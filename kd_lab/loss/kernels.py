"""What a GPU computes of a tile of logits: each divergence's terms, and two passes, in Triton.

``read_once.py`` reads each logit once, for most losses. A stored teacher and adaptive KL read them
more often, by one program a row:

    log_sums    the highest logit and the sum of exponentials      each model's logits once
    gradients   the value, and the gradient in the logits' place   both once, and one write

Logits and sums are float32. The gradient is written in the dtype of the products that take it. With
16 bits it fills the first half of its row: what is written has been read. A row's blocks are masked
by its padded width, since an odd vocabulary would make vector loads scalar.

``gpu_tiles.py`` calls them all. Imported only where kernels run: on CUDA, or by tests under
``TRITON_INTERPRET=1``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from kd_lab import divergences

LOWEST = tl.constexpr(-3.0e38)  # finite, and below all logits
MAX_LOG_RATIO = tl.constexpr(80.0)  # see closed_forms.py


# ---- numbers of a block


@triton.jit
def read(row, at, width, vocab):
    """A block of logits; beyond the vocabulary there are some, of probability 0."""
    x = tl.load(row + at, mask=at < width, other=0.0)
    return tl.where(at < vocab, x, LOWEST)


@triton.jit
def probability(x, highest, scale, inverse_temperature):
    return tl.exp((x - highest) * inverse_temperature) * scale


@triton.jit
def log1p(x):
    """log(1 + x), precise also near 0: there 2·artanh(x / (2 + x))."""
    return tl.where(tl.abs(x) < 0.4, _log1p_near_0(x), tl.log(1 + x))


@triton.jit
def _log1p_near_0(x):
    s = x / (2 + x)
    t = s * s
    return 2 * s * (1 + t * (1 / 3 + t * (1 / 5 + t * (1 / 7 + t * (1 / 9 + t * (1 / 11))))))


@triton.jit
def expm1(x):
    """exp(x) - 1, precise also near 0."""
    series = 1 + x * (1 / 5) * (1 + x * (1 / 6) * (1 + x * (1 / 7) * (1 + x * (1 / 8))))
    series = x * (1 + x * (1 / 2) * (1 + x * (1 / 3) * (1 + x * (1 / 4) * series)))
    return tl.where(tl.abs(x) < 0.5, series, tl.exp(x) - 1)


@triton.jit
def normalizer(sums, row, rows):
    """The highest logit of a row, and one over the sum of the exponentials."""
    return tl.load(sums + row), 1 / tl.load(sums + rows + row)


@triton.jit
def normalizers(of_student, of_teacher, row, rows, inverse_temperature):
    """Both models' normalizers, and log Z of the teacher minus that of the student."""
    z_top, z_scale = normalizer(of_student, row, rows)
    t_top, t_scale = normalizer(of_teacher, row, rows)
    between = log_z_between(z_top, z_scale, t_top, t_scale, inverse_temperature)
    return z_top, z_scale, t_top, t_scale, between


@triton.jit
def log_z_between(z_top, z_scale, t_top, t_scale, inverse_temperature):
    """log Z of the teacher minus that of the student."""
    return (t_top - z_top) * inverse_temperature + log1p((z_scale - t_scale) / t_scale)


@triton.jit
def compare(z, t, z_top, z_scale, t_top, t_scale, between, inverse_temperature):
    """log(p/q), p and q of a block of both models' logits."""
    log_ratio = (t - z) * inverse_temperature - between
    p = probability(t, t_top, t_scale, inverse_temperature)
    return log_ratio, p, probability(z, z_top, z_scale, inverse_temperature)


# ---- divergences: (log(p/q), p, q, share) -> (the value's terms, q·h with h = ∂D/∂q)


@triton.jit
def _forward_kl(log_ratio, p, q, share):
    return p * log_ratio + (q - p), -p


@triton.jit
def _reverse_kl(log_ratio, p, q, share):
    pull = -q * log_ratio
    return pull + (p - q), pull


@triton.jit
def mixture(log_ratio, share):
    """share + (1 - share)·exp(log_ratio), and its log: precise near 1, and for shares near 0."""
    log_ratio = tl.clamp(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    mixed = share + (1 - share) * tl.exp(log_ratio)
    above_1 = (1 - share) * expm1(log_ratio)
    is_low = log_ratio < -1
    log_mixed = tl.log(tl.where(is_low, mixed, 1 + above_1))
    is_near = ~is_low & (tl.abs(above_1) < 0.4)
    return mixed, tl.where(is_near, _log1p_near_0(above_1), log_mixed)


@triton.jit
def _jensen_shannon(log_ratio, p, q, beta):
    log_ratio = tl.clamp(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    _, over_q = mixture(log_ratio, 1 - beta)  # log(m/q)
    pull = -(1 - beta) * q * over_q
    return beta * p * (log_ratio - over_q) + pull, pull


@triton.jit
def _skew_forward_kl(log_ratio, p, q, alpha):
    over_p, log_over_p = mixture(-log_ratio, alpha)  # m/p, with m = αp + (1-α)q
    return (1 - alpha) * (q - p) - p * log_over_p, (alpha - 1) * q / over_p


@triton.jit
def _skew_reverse_kl(log_ratio, p, q, alpha):
    over_q, log_over_q = mixture(log_ratio, alpha)  # m/q, with m = (1-α)p + αq
    value = -q * log_over_q
    return value + (1 - alpha) * (p - q), value - alpha * q / over_q


@triton.jit
def _adaptive_kl(log_ratio, p, q, head_weight):
    pull = -q * log_ratio
    value = head_weight * (p * log_ratio + (q - p)) + (1 - head_weight) * (pull + (p - q))
    return value, (1 - head_weight) * pull - head_weight * p


@triton.jit
def _total_variation(log_ratio, p, q, share):
    gap = q - p
    return 0.5 * tl.abs(gap), tl.where(gap > 0, 0.5 * q, tl.where(gap < 0, -0.5 * q, 0.0))


class Terms(NamedTuple):
    """How a divergence is computed here."""

    terms: Any  # one of the functions above
    setting: str | None = None  # of the divergence, which is their share
    mean: float | None = None  # Σ q·h where it is a constant


TERMS: dict[Callable[..., Tensor], Terms] = {
    divergences.forward_kl: Terms(_forward_kl, mean=-1.0),
    divergences.reverse_kl: Terms(_reverse_kl),
    divergences.jensen_shannon: Terms(_jensen_shannon, "beta"),
    divergences.skew_forward_kl: Terms(_skew_forward_kl, "alpha"),
    divergences.skew_reverse_kl: Terms(_skew_reverse_kl, "alpha"),
    divergences.adaptive_kl: Terms(_adaptive_kl),  # its share is found for each row
    divergences.total_variation: Terms(_total_variation),
}


# ---- the two passes


@triton.jit
def log_sums(
    tile, stride, width, vocab, inverse_temperature, plain, tempered, finite, rows,
    TEMPERED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    highest = tl.full([BLOCK], LOWEST, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    cooler = tl.zeros([BLOCK], tl.float32)  # at the temperature
    wrong = tl.zeros([BLOCK], tl.int32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = read(tile + row * stride, at, width, vocab)
        wrong += (~(tl.abs(x) < float("inf"))).to(tl.int32)
        higher = tl.maximum(highest, x)
        total = total * tl.exp(highest - higher) + tl.exp(x - higher)
        if TEMPERED:
            before = tl.exp((highest - higher) * inverse_temperature)
            cooler = cooler * before + tl.exp((x - higher) * inverse_temperature)
        highest = higher
    top = tl.max(highest, 0)
    tl.store(plain + row, top)
    tl.store(plain + rows + row, tl.sum(total * tl.exp(highest - top), 0))
    if TEMPERED:
        tl.store(tempered + row, top)
        cooler = cooler * tl.exp((highest - top) * inverse_temperature)
        tl.store(tempered + rows + row, tl.sum(cooler, 0))
    tl.store(finite + row, tl.sum(wrong, 0) == 0)


@triton.jit
def gradients(
    student, student_stride, teacher, teacher_stride, gradient, gradient_stride, width, vocab,
    inverse_temperature, plain, of_student, of_teacher, shares, averages, values, targets,
    on_divergence, divergence_step, on_targets, targets_step, rows,
    TERMS: tl.constexpr, CROSS_ENTROPY: tl.constexpr, WRITE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    # All of the row's numbers are read before anything is written.
    target = tl.load(targets + row)
    divergence_weight = tl.load(on_divergence + row * divergence_step)
    target_weight = tl.load(on_targets + row * targets_step)
    average = tl.load(averages + row)
    share = tl.load(shares + row)
    plain_top, plain_scale = normalizer(plain, row, rows)
    z_top, z_scale, t_top, t_scale, between = normalizers(
        of_student, of_teacher, row, rows, inverse_temperature
    )
    value = tl.zeros([BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = read(student + row * student_stride, at, width, vocab)
        if TERMS is None:
            found = -average * probability(z, z_top, z_scale, inverse_temperature)
        else:
            t = read(teacher + row * teacher_stride, at, width, vocab)
            log_ratio, p, q = compare(
                z, t, z_top, z_scale, t_top, t_scale, between, inverse_temperature
            )
            terms, pull = TERMS(log_ratio, p, q, share)
            value += terms
            found = pull - average * q
        if WRITE:
            found *= divergence_weight
            if CROSS_ENTROPY:
                plain_q = probability(z, plain_top, plain_scale, 1.0)
                found += target_weight * (plain_q - tl.where(at == target, 1.0, 0.0))
            # All threads have read before one of them writes: with 16 bits into another's numbers.
            tl.debug_barrier()
            tl.store(gradient + row * gradient_stride + at, found, mask=at < width)
    if TERMS is not None:
        tl.store(values + row, tl.sum(value, 0))


@triton.jit
def scale_unless_one(numbers, factor, count, BLOCK: tl.constexpr):
    """``numbers`` times ``factor``; where that is 1 they are not touched."""
    by = tl.load(factor).to(tl.float32)
    if by != 1.0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        scaled = tl.load(numbers + at, mask=at < count).to(tl.float32) * by
        tl.store(numbers + at, scaled, mask=at < count)
