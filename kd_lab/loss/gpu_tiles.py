"""A tile's loss by the kernels: the results of tiles.py, in a fraction of its reads and writes.

The numbers that a position has one or a few of are torch's. Nothing here waits for the GPU.
"""

import inspect
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from kd_lab import divergences
from kd_lab.divergences import Divergence
from kd_lab.loss.adaptive_kernel import head_weights
from kd_lab.loss.kernels import LOWEST, TERMS, Terms, gradients, log_sums, scale_unless_one
from kd_lab.loss.read_once import NUMBERS, row_losses
from kd_lab.loss.tiles import (
    Objective,
    StoredDistribution,
    TileLoss,
    by_autograd,
    factor,
    is_zero,
)

BLOCK = 2048  # words of a row at a time
WARPS = 8
# Of read_once.py: logits that a program keeps, of one model or of both together.
KEPT, KEEPING_WARPS = 4096, 4
# Of adaptive_kernel.py: levels a pass, tokens that are kept, and warps that share so many numbers.
WAYS, CAPACITY, HEAD_WARPS = 16, 1024, 16
# What a skewed KL is where its alpha is 0; its own terms cut log-ratios off.
WITHOUT_MIXING: dict[Any, Any] = {
    divergences.skew_forward_kl: divergences.forward_kl,
    divergences.skew_reverse_kl: divergences.reverse_kl,
}


def terms_of(divergence: Divergence) -> tuple[Terms, dict[str, Any]] | None:
    """A divergence's terms in the kernels, and all its settings; None if it has none there."""
    function: Any = divergence
    given: dict[str, Any] = {}
    if isinstance(divergence, partial) and not divergence.args:
        function, given = divergence.func, divergence.keywords
    if function not in TERMS:
        return None
    known = list(inspect.signature(function).parameters.values())[2:]
    settings = {setting.name: setting.default for setting in known} | given
    if function in WITHOUT_MIXING and settings["alpha"] == 0:
        return TERMS[WITHOUT_MIXING[function]], {}
    if function in WITHOUT_MIXING and divergences.NEARLY_ONE < settings["alpha"] < 1:
        return None  # float32 has too few digits for it
    return TERMS[function], settings


class Sums(NamedTuple):
    """Of R rows of logits: the highest one and Σ exp(logit - highest), [2, R]."""

    plain: Tensor
    tempered: Tensor  # with (logit - highest) over the temperature
    finite: Tensor  # whether all logits are, bool, [R]


class Teacher(NamedTuple):
    """What the student's rows are compared with, and what that takes for each row, [R].

    Without terms the student stays alone, and the gradient is -means·q.
    """

    logits: Tensor
    sums: Tensor  # tempered
    terms: Any
    shares: Tensor
    means: Tensor  # Σ q·h


def tile_loss(
    student: Tensor,
    teacher: Tensor | StoredDistribution | None,
    targets: Tensor,
    objective: Objective,
    gradient: Tensor | None,
) -> TileLoss:
    """The loss of a tile, and the gradient of its logits.

    Args:
        student: float32 logits, [C, V]; what lies between the rows is overwritten.
        teacher: logits likewise; or a stored distribution; or None for no divergence (then NaN).
            Logits are compared by a divergence with terms in the kernels.
        targets: the next tokens, [C].
        objective: the divergence, its weights and temperature.
        gradient: [C, V], in the student's own memory and of its dtype or a narrower one; None where
            no gradient is wanted.
    """
    if isinstance(teacher, StoredDistribution):
        return _stored_loss(student, teacher, targets, objective, gradient)
    if teacher is None:
        return _read_once(student, None, Terms(None), {}, targets, objective, gradient)
    found = terms_of(objective.divergence)
    assert found is not None
    terms, settings = found
    if terms is TERMS[divergences.adaptive_kl]:
        return _adaptive_loss(student, teacher, settings, targets, objective, gradient)
    return _read_once(student, teacher, terms, settings, targets, objective, gradient)


def _read_once(
    student: Tensor,
    teacher: Tensor | None,
    terms: Terms,
    settings: dict[str, Any],
    targets: Tensor,
    objective: Objective,
    gradient: Tensor | None,
) -> TileLoss:
    """Without a teacher, or against logits by a divergence of one share."""
    rows, vocab_size = student.shape
    compared = student if teacher is None else teacher
    width = _width(student, compared)
    part = part_size(width, 1 if teacher is None else 2, student.device)
    parts = triton.cdiv(width, part)
    slots = triton.next_power_of_2(parts)
    told = student.new_empty(rows, NUMBERS.value, slots)
    values = student.new_empty(rows, parts)
    cross_entropy = torch.empty(rows, dtype=torch.float64, device=student.device)
    finite = torch.empty(2, rows, dtype=torch.bool, device=student.device)
    into = student if gradient is None else gradient
    on_divergence, on_targets = _factors(student, objective)
    row_losses[(rows * parts,)](
        student, student.stride(0), compared, compared.stride(0), into, into.stride(0),
        width, vocab_size, 1 / objective.temperature,
        float(settings.get(terms.setting or "", 0.0)), float(terms.mean or 0.0),
        targets, on_divergence, on_divergence.stride(0), on_targets, on_targets.stride(0),
        torch.zeros(rows, dtype=torch.int32, device=student.device), told,
        cross_entropy, finite, values, rows,
        TERMS=terms.terms, AVERAGED=terms.mean is None, TEMPERED=objective.temperature != 1,
        CROSS_ENTROPY=not is_zero(objective.weights.cross_entropy), WRITE=gradient is not None,
        PARTS=parts, SLOTS=slots, BLOCK=part, num_warps=KEEPING_WARPS,
    )  # fmt: skip
    if teacher is None:
        nothing = torch.full_like(cross_entropy, torch.nan)
        return TileLoss(nothing, cross_entropy, finite[0], torch.ones_like(finite[0]))
    return TileLoss(values.sum(-1, dtype=torch.float64), cross_entropy, finite[0], finite[1])


def part_size(width: int, models: int, device: torch.device) -> int:
    """Words of a row that a program of read_once.py keeps.

    The programs of a row wait for one another. There are no more than the GPU has processors, each
    of which has room for several. An interpreter runs one after another: there is one.
    """
    is_gpu = device.type == "cuda"
    most = torch.cuda.get_device_properties(device).multi_processor_count if is_gpu else 1
    size = KEPT // models
    while triton.cdiv(width, size) > most:
        size *= 2
    return size


def sums(logits: Tensor, temperature: float) -> Sums:
    """The sums of a softmax over the rows of logits, [R, V], by one pass over them."""
    rows, vocab_size = logits.shape
    plain = logits.new_empty(2, rows)
    tempered = plain if temperature == 1 else torch.empty_like(plain)
    finite = torch.empty(rows, dtype=torch.bool, device=logits.device)
    log_sums[(rows,)](
        logits, logits.stride(0), _width(logits), vocab_size, 1 / temperature, plain, tempered,
        finite, rows, TEMPERED=temperature != 1, BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    return Sums(plain, tempered, finite)


def _adaptive_loss(
    student: Tensor,
    teacher: Tensor,
    settings: dict[str, Any],
    targets: Tensor,
    objective: Objective,
    gradient: Tensor | None,
) -> TileLoss:
    """The head is searched in the teacher's logits, so that they are read a few times."""
    rows, vocab_size = student.shape
    target_logits = student.gather(-1, targets[:, None])[:, 0]
    of_student, of_teacher = (sums(tile, objective.temperature) for tile in (student, teacher))
    shares, averages = student.new_empty(rows), student.new_empty(rows)
    head_weights[(rows,)](
        student, student.stride(0), teacher, teacher.stride(0), _width(student, teacher),
        vocab_size, 1 / objective.temperature, of_student.tempered, of_teacher.tempered,
        float(settings["mu"]), shares, averages, student.new_empty(rows, 2, CAPACITY), rows,
        TAIL=settings["crossing"] == "tail", CAPACITY=CAPACITY, WAYS=WAYS, BLOCK=BLOCK,
        num_warps=HEAD_WARPS,
    )  # fmt: skip
    terms = TERMS[divergences.adaptive_kl].terms
    compared = Teacher(teacher, of_teacher.tempered, terms, shares, averages)
    values = _write(student, of_student, compared, targets, objective, gradient)
    cross_entropy = _log(of_student.plain, 1.0) - target_logits
    return TileLoss(values, cross_entropy, of_student.finite, of_teacher.finite)


def _write(
    student: Tensor,
    of_student: Sums,
    teacher: Teacher,
    targets: Tensor,
    objective: Objective,
    gradient: Tensor | None,
) -> Tensor:
    """The divergence's value, float64, [R]; and the gradient, where it is wanted."""
    rows, vocab_size = student.shape
    on_divergence, on_targets = _factors(student, objective)
    values = torch.empty(rows, dtype=torch.float64, device=student.device)
    into = student if gradient is None else gradient
    gradients[(rows,)](
        student, student.stride(0), teacher.logits, teacher.logits.stride(0),
        into, into.stride(0), _width(student, teacher.logits), vocab_size,
        1 / objective.temperature, of_student.plain, of_student.tempered, teacher.sums,
        teacher.shares, teacher.means, values, targets,
        on_divergence, on_divergence.stride(0), on_targets, on_targets.stride(0), rows,
        TERMS=teacher.terms, CROSS_ENTROPY=not is_zero(objective.weights.cross_entropy),
        WRITE=gradient is not None, BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    return values


def _factors(student: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """Of the gradient's two parts, one for all positions or one each; the step says which."""
    weights = objective.weights
    return (
        factor(weights.divergence, objective.temperature, objective, student).expand(
            len(student), 1
        ),
        factor(weights.cross_entropy, 1.0, objective, student).expand(len(student), 1),
    )


def _stored_loss(
    student: Tensor,
    teacher: StoredDistribution,
    targets: Tensor,
    objective: Objective,
    gradient: Tensor | None,
) -> TileLoss:
    """The same against k stored tokens and one bucket for all others.

    The kernels see the others: the stored tokens' logits are taken out, and k + 1 buckets are few.
    """
    temperature, tokens, weights = objective.temperature, teacher.tokens, objective.weights
    target_logits = student.gather(-1, targets[:, None])[:, 0]
    kept = student.gather(-1, tokens)
    student.scatter_(-1, tokens, LOWEST.value)
    others = sums(student, temperature)
    finite = others.finite & kept.isfinite().all(-1)
    kept = kept.double()
    others_log = _log(others.tempered, temperature)[:, None]
    log_sum = torch.logaddexp(others_log, (kept / temperature).logsumexp(-1, keepdim=True))
    plain_log = torch.logaddexp(_log(others.plain, 1.0), kept.logsumexp(-1))  # [R]
    student_logp = (kept / temperature - log_sum).float()
    teacher_logp = teacher.logp.float()
    has_others = tokens.shape[-1] < student.shape[-1]
    if has_others:
        student_logp = torch.cat([student_logp, (others_log - log_sum).float()], -1)
        teacher_logp = torch.cat([teacher_logp, teacher.tail[:, None].float()], -1)
    values, on_buckets = by_autograd(objective.divergence, teacher_logp, student_logp)
    if gradient is not None:
        if is_zero(weights.divergence):
            on_buckets = torch.zeros_like(on_buckets)
        highest = plain_log.float()
        plain = torch.stack([highest, (plain_log - highest).exp().float()])
        # A bucket's logit is the logsumexp of its tokens' logits: it goes to them by share.
        to_others = -on_buckets[:, -1] if has_others else torch.zeros_like(highest)
        alone = Teacher(student, others.tempered, None, to_others, to_others)
        _write(student, others._replace(plain=plain), alone, targets, objective, gradient)
        on_kept = on_buckets[:, : tokens.shape[-1]] * factor(
            weights.divergence, temperature, objective, student
        )
        if not is_zero(weights.cross_entropy):
            gap = (kept - plain_log[:, None]).exp() - (tokens == targets[:, None]).double()
            on_kept = on_kept + gap.float() * factor(weights.cross_entropy, 1.0, objective, student)
        gradient.scatter_(-1, tokens, on_kept.to(gradient.dtype))
    every = torch.ones_like(finite)
    return TileLoss(values.double(), plain_log - target_logits, finite, every)


def scale_by(gradient: Tensor, factor: Tensor) -> None:
    """A contiguous tensor times a number, in place: a pass over it only where that is not 1."""
    count = gradient.numel()
    block = 8 * BLOCK
    scale_unless_one[(-(-count // block),)](gradient, factor, count, BLOCK=block, num_warps=WARPS)


def _log(sums: Tensor, temperature: float) -> Tensor:
    """log Σ exp(logit / temperature), float64, [R]."""
    highest, total = sums.double()
    return highest / temperature + total.log()


def _width(*tiles: Tensor) -> int:
    """How many numbers of a row can be read in all tiles: the stride, where the last row has it."""
    widths = []
    for tile in tiles:
        rows, vocab_size = tile.shape
        entries = tile.untyped_storage().nbytes() // tile.element_size()
        is_whole = tile.storage_offset() + rows * tile.stride(0) <= entries
        widths.append(tile.stride(0) if is_whole else vocab_size)
    return min(widths)
