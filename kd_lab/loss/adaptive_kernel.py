"""The weight of adaptive KL's head, found in one program a row, without sorting or waiting.

The head is the teacher's most likely tokens until their mass reaches mu (divergences.py). The
gradient wants no mask of it, only the weight g_head / (g_head + g_tail), sums of |p - q|.

    narrow    which of sixteen probabilities is the last to reach mu?    the teacher, each time
    sum       the gaps above the interval, and the tokens in it          both models, once
    settle    halve the interval of these few tokens                     nothing

Positive floats are ordered as the integers of the same bits, and an interval is one of integers.
Narrowing ends where CAPACITY tokens hold the interval: after one or two passes if a teacher knows
what comes next, after three if it is flat. It begins at the lowest probability that may be the
crossing's, since the tail has a mass of 1 - mu in at most V tokens.
"""

import triton
import triton.language as tl

from kd_lab.loss.kernels import compare, normalizers, probability, read


@triton.jit
def bits(p):
    return p.to(tl.int32, bitcast=True)


@triton.jit
def number(integer):
    return integer.to(tl.float32, bitcast=True)


@triton.jit
def _narrow(
    row, width, vocab, top, scale, inverse_temperature, mu,
    CAPACITY: tl.constexpr, WAYS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The interval [low, high) of the crossing's bits, and the mass from ``high`` upwards."""
    low = tl.maximum(bits(tl.minimum((1 - mu) / vocab * 0.5, scale)), 1)
    high = bits(scale) + 1  # the likeliest token's probability is exp(0)·scale
    mass_above = mu * 0
    from_low, from_high = vocab, 0  # tokens
    while (from_low - from_high > CAPACITY) & (high - low > 1):
        levels = low + tl.cdiv(high - low, WAYS) * (1 + tl.arange(0, WAYS))
        levels = tl.minimum(levels, high - 1)
        mass = tl.zeros([WAYS, BLOCK], tl.float32)
        count = tl.zeros([WAYS, BLOCK], tl.int32)
        # Unrolled, so that several loads are on their way at once.
        for start in tl.range(0, width, BLOCK, loop_unroll_factor=4):
            at = start + tl.arange(0, BLOCK)
            p = probability(read(row, at, width, vocab), top, scale, inverse_temperature)
            reach = bits(p)[None, :] >= levels[:, None]
            mass += tl.where(reach, p[None, :], 0.0)
            count += reach.to(tl.int32)
        masses, counts = tl.sum(mass, 1), tl.sum(count, 1)
        enough = masses >= mu
        low = tl.max(tl.where(enough, levels, low), 0)
        high = tl.min(tl.where(enough, high, levels), 0)
        from_low = tl.min(tl.where(enough, counts, from_low), 0)
        from_high = tl.max(tl.where(enough, from_high, counts), 0)
        mass_above = tl.max(tl.where(enough, mass_above, masses), 0)
    return low, high, mass_above


@triton.jit
def _taken(low, largest, mass_above, mu, TAIL: tl.constexpr):
    """How many of the tokens with the crossing's probability are in the head, as a float."""
    room = (mu - mass_above) / number(low)
    if TAIL:  # the most likely token is always in it
        return tl.maximum(tl.floor(room), tl.where(low == largest, 1.0, 0.0))
    return tl.ceil(room)


@triton.jit
def head_weights(
    student, student_stride, teacher, teacher_stride, width, vocab, inverse_temperature,
    of_student, of_teacher, mu, shares, mean, kept, rows,
    TAIL: tl.constexpr, CAPACITY: tl.constexpr, WAYS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The head's weight into ``shares`` [R], and Σ q·h into ``mean`` [R].

    ``kept`` [R, 2, CAPACITY] holds the probabilities of the tokens in the interval, and their gaps.
    """
    row = tl.program_id(0).to(tl.int64)
    z_row, t_row = student + row * student_stride, teacher + row * teacher_stride
    kept += row * 2 * CAPACITY
    z_top, z_scale, t_top, t_scale, between = normalizers(
        of_student, of_teacher, row, rows, inverse_temperature
    )
    low, high, mass_above = _narrow(
        t_row, width, vocab, t_top, t_scale, inverse_temperature, mu,
        CAPACITY, WAYS, BLOCK // 4,
    )  # fmt: skip
    largest = bits(t_scale)
    single = high - low == 1  # then there may be more tokens than ``kept`` holds
    taken = _taken(low, largest, mass_above, mu, TAIL)
    reverse = tl.zeros([BLOCK], tl.float32)
    gaps = tl.zeros([BLOCK], tl.float32)
    head_gaps = tl.zeros([BLOCK], tl.float32)
    found = 0
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = read(z_row, at, width, vocab)
        t = read(t_row, at, width, vocab)
        log_ratio, p, q = compare(
            z, t, z_top, z_scale, t_top, t_scale, between, inverse_temperature
        )
        gap = tl.abs(p - q)
        reverse -= q * log_ratio
        gaps += gap
        head_gaps += tl.where(bits(p) >= high, gap, 0.0)
        inside = (bits(p) >= low) & (bits(p) < high)
        here = tl.sum(inside.to(tl.int32), 0)
        if here > 0:
            place = found + tl.cumsum(inside.to(tl.int32), 0) - 1
            if single:  # equally likely tokens: the lowest ids first
                head_gaps += tl.where(inside & (place < taken), gap, 0.0)
            else:
                fits = inside & (place < CAPACITY)
                tl.store(kept + place, p, mask=fits)
                tl.store(kept + CAPACITY + place, gap, mask=fits)
            found += here
    head_gap = tl.sum(head_gaps, 0)
    if not single:
        tl.debug_barrier()  # what other threads have kept
        place = tl.arange(0, CAPACITY)
        p = tl.load(kept + place, mask=place < found, other=0.0)
        gap = tl.load(kept + CAPACITY + place, mask=place < found, other=0.0)
        while high - low > 1:
            middle = low + (high - low) // 2
            enough = mass_above + tl.sum(tl.where(bits(p) >= middle, p, 0.0), 0) >= mu
            low = tl.where(enough, middle, low)
            high = tl.where(enough, high, middle)
        above = bits(p) >= high
        level = bits(p) == low
        mass_above += tl.sum(tl.where(above, p, 0.0), 0)
        taken = _taken(low, largest, mass_above, mu, TAIL)
        in_head = above | (level & (tl.cumsum(level.to(tl.int32), 0) <= taken))
        head_gap += tl.sum(tl.where(in_head, gap, 0.0), 0)
    all_gaps = tl.sum(gaps, 0)
    weight = tl.where(all_gaps > 0, head_gap / all_gaps, 0.5)
    tl.store(shares + row, weight)
    tl.store(mean + row, (1 - weight) * tl.sum(reverse, 0) - weight)
