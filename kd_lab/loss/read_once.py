"""The loss of a tile on a GPU, each logit read once: several programs hold a row in registers.

No program has registers for a whole row of logits, but a few dozen have. Each reads its part of the
row and keeps it. What belongs to the whole row they tell one another:

    sum        the highest logit and the sum of exponentials of each part, both models
    average    Σ q·h of each part, where it is no constant (closed_forms.py)
    write      the value of each part, and the gradient in the logits' place

Between two of these a program waits for the others of its row. No program waits in vain: a GPU
starts programs in the order of their numbers, on which CUB's scans rest too. So all parts of
earlier rows have started, and those of its own row follow as soon as there is room. A GPU has room
for far more programs than a row has.

All programs add the parts' numbers in one order, so that the same bits come out each time.
"""

import triton
import triton.language as tl

from kd_lab.loss.kernels import LOWEST, compare, log_z_between, probability, read

# What the parts of a row tell one another: for the student and then for the teacher the highest
# logit and the sum of exponentials; the student's without a temperature; Σ q·h.
STUDENT, TEACHER, PLAIN, PULL, NUMBERS = (tl.constexpr(i) for i in (0, 2, 4, 5, 6))


@triton.jit
def tell(told, number, part, x, SLOTS: tl.constexpr):
    tl.store(told + number * SLOTS + part, x)


@triton.jit
def hear(told, number, missing, PARTS: tl.constexpr, SLOTS: tl.constexpr):
    """A number of all parts, [SLOTS]; not from the first cache, which may hold an older one."""
    slot = tl.arange(0, SLOTS)
    at = told + number * SLOTS + slot
    return tl.load(at, mask=slot < PARTS, other=missing, cache_modifier=".cg")


@triton.jit
def hear_softmax(
    told, model, total, inverse_temperature, PARTS: tl.constexpr, SLOTS: tl.constexpr
):  # fmt: skip
    """The highest logit of the row, and the sum of its exponentials."""
    tops = hear(told, model, LOWEST, PARTS, SLOTS)
    totals = hear(told, total, 0.0, PARTS, SLOTS)
    top = tl.max(tops, 0)
    return top, tl.sum(totals * tl.exp((tops - top) * inverse_temperature), 0)


@triton.jit
def wait_for(arrived, programs):
    """Until so many programs of the row have come here; what they told before can be heard."""
    tl.debug_barrier()  # all threads of this one have told
    tl.atomic_add(arrived, 1, sem="release")
    while tl.atomic_add(arrived, 0, sem="acquire") < programs:
        pass


@triton.jit
def total_of(x, top, inverse_temperature):
    """The sum of a part's exponentials; NaN where a logit is not finite."""
    found = tl.exp((x - top) * inverse_temperature)
    return tl.sum(tl.where(tl.abs(x) < float("inf"), found, float("nan")), 0)


@triton.jit
def row_losses(
    student, student_stride, teacher, teacher_stride, gradient, gradient_stride, width, vocab,
    inverse_temperature, share, average, targets, on_divergence, divergence_step, on_targets,
    targets_step, arrivals, told_by_rows, cross_entropy, finite, values, rows,
    TERMS: tl.constexpr, AVERAGED: tl.constexpr, TEMPERED: tl.constexpr,
    CROSS_ENTROPY: tl.constexpr, WRITE: tl.constexpr,
    PARTS: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The loss of each row, and its gradient; without TERMS there is no teacher.

    ``values`` [R, PARTS] are to be added. ``finite`` [2, R] says whether all logits of student and
    teacher are. ``arrivals`` [R] are zeros. AVERAGED says that Σ q·h, ``average``, is not known.
    """
    if not TEMPERED:
        inverse_temperature = 1.0  # nothing is multiplied
    program = tl.program_id(0)
    row, part = (program // PARTS).to(tl.int64), program % PARTS
    arrived, told = arrivals + row, told_by_rows + row * NUMBERS * SLOTS
    at = part * BLOCK + tl.arange(0, BLOCK)
    z = read(student + row * student_stride, at, width, vocab)
    if TERMS is not None:
        t = read(teacher + row * teacher_stride, at, width, vocab)
        top = tl.max(t, 0)
        tell(told, TEACHER, part, top, SLOTS)
        tell(told, TEACHER + 1, part, total_of(t, top, inverse_temperature), SLOTS)
    top = tl.max(z, 0)
    tell(told, STUDENT, part, top, SLOTS)
    tell(told, STUDENT + 1, part, total_of(z, top, inverse_temperature), SLOTS)
    if TEMPERED:
        tell(told, PLAIN, part, total_of(z, top, 1.0), SLOTS)
    target = tl.load(targets + row)
    target_logit = tl.load(student + row * student_stride + target)
    divergence_weight = tl.load(on_divergence + row * divergence_step)
    target_weight = tl.load(on_targets + row * targets_step)
    wait_for(arrived, PARTS)  # all have read before one writes

    z_top, z_total = hear_softmax(told, STUDENT, STUDENT + 1, inverse_temperature, PARTS, SLOTS)
    plain_total = z_total
    if TEMPERED:
        _, plain_total = hear_softmax(told, STUDENT, PLAIN, 1.0, PARTS, SLOTS)
    if part == 0:
        above = tl.log(plain_total.to(tl.float64)) + (z_top.to(tl.float64) - target_logit)
        tl.store(cross_entropy + row, above)
        tl.store(finite + row, plain_total == plain_total)
    q = probability(z, z_top, 1 / z_total, inverse_temperature)
    if TERMS is not None:
        t_top, t_total = hear_softmax(told, TEACHER, TEACHER + 1, inverse_temperature, PARTS, SLOTS)
        if part == 0:
            tl.store(finite + rows + row, t_total == t_total)
        z_scale, t_scale = 1 / z_total, 1 / t_total
        between = log_z_between(z_top, z_scale, t_top, t_scale, inverse_temperature)
        log_ratio, p, q = compare(
            z, t, z_top, z_scale, t_top, t_scale, between, inverse_temperature
        )
        value, found = TERMS(log_ratio, p, q, share)
        tl.store(values + row * PARTS + part, tl.sum(value, 0))
        if AVERAGED:
            tell(told, PULL, part, tl.sum(found, 0), SLOTS)
            wait_for(arrived, 2 * PARTS)
            average = tl.sum(hear(told, PULL, 0.0, PARTS, SLOTS), 0)
        found = (found - average * q) * divergence_weight
    else:
        found = tl.zeros([BLOCK], tl.float32)
    if WRITE:
        if CROSS_ENTROPY:
            plain_q = q
            if TEMPERED:
                plain_q = probability(z, z_top, 1 / plain_total, 1.0)
            found += target_weight * (plain_q - tl.where(at == target, 1.0, 0.0))
        tl.store(gradient + row * gradient_stride + at, found, mask=at < width)
