"""How sure a mean is: intervals over examples and over seeds, paired differences, spreads.

A metric is one value an example. Where examples count by their length it also has one weight: the
mean over tokens of several answers is Σ w·x / Σ w, with x an answer's mean and w its tokens. The
bootstrap draws examples with replacement, 10,000 times, each with its value and its weight.

The interval is that of the percentiles. We tried BCa, its correction for bias and skewness. On
differences that are mostly 0, as between two students, it called chance significant more often, up
to a hundred examples. With fewer than thirty examples our intervals are a little too narrow.

These intervals say how much a figure would move over other test examples, and nothing about another
training seed. For that, train several. Seeds are few, and a bootstrap of eight covers the truth in
89% of cases where 95% is said. So an interval over seeds is Student's (``t_interval``).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

RESAMPLES = 10_000
BLOCK_ENTRIES = 2**22  # of the table [resamples, examples], held as floats at a time
KEPT_ENTRIES = 2**26  # of that table, kept for the other metrics of the same examples, a byte each


class Interval(NamedTuple):
    """A mean over ``n`` examples and its interval over these."""

    mean: float
    low: float
    high: float
    n: int
    standard_error: float  # of the mean; 0 where all values are equal


class Difference(NamedTuple):
    """Mean of a - b over the same examples, its interval, and its p-value."""

    mean: float
    low: float
    high: float
    p_value: float  # two-sided; below 1 - level exactly where the interval leaves out 0


class Spread(NamedTuple):
    """One figure of several training runs that differ in their seed only."""

    mean: float
    sd: float  # between seeds, with n - 1; NaN for a single seed
    low: float
    high: float  # smallest and largest
    n: int


def bootstrap_interval(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean over examples with its bootstrap interval.

    If all values are equal the interval is that value. Read it for a share of 0 or 1 as "none of
    n", not as certainty: no resampling can know better.

    Args:
        values: [n], one an example.
        weights: [n], not negative; default: all equal.
        level: of confidence.
        seed: equal seeds draw the same examples again, for every metric.
    Raises:
        ValueError: no example, a value that is not finite, weights that do not fit, or a level
            outside (0, 1).
    """
    x, w = _checked(values, weights)
    _check_level(level)
    return _interval(x, w, _means(x, w, resamples, seed), level)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Mean of a - b, where a[i] and b[i] belong to the same example, by paired bootstrap.

    The p-value inverts the interval: it is one minus the largest level at which the interval leaves
    out 0. It is never below 2 / (resamples + 1), the resolution of the resampling; nor below
    2^(1-n), at which n differences have one sign by chance. With fewer than about 15 examples the
    interval is too narrow all the same. A difference that is rounding alone counts as 0.

    Args:
        a, b: [n] each.
        weights: [n], shared by both; default: all equal.
    Raises:
        ValueError: as in ``bootstrap_interval``; also if a and b differ in length.
    """
    _check_level(level)
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"paired values must be as many: a is {a.shape}, b is {b.shape}")
    x, w = _checked(a - b, weights)
    x = np.where(np.abs(x) <= 1e-12 * np.maximum(np.abs(a), np.abs(b)), 0.0, x)
    means = _means(x, w, resamples, seed)
    mean, low, high, _, _ = _interval(x, w, means, level)
    counted = x[w > 0]
    one_sign = 2.0 ** (1 - len(counted))
    if np.ptp(counted) == 0:  # one and the same difference everywhere
        return Difference(mean, low, high, 1.0 if mean == 0 else one_sign)
    slack = 1e-12 * np.abs(means).max()  # a sum of equal differences may miss 0 by rounding
    tail = min((means <= slack).mean(), (means >= -slack).mean())
    return Difference(
        mean, low, high, float(np.clip(2 * tail, max(2 / (resamples + 1), one_sign), 1))
    )


def t_interval(values: ArrayLike, *, level: float = 0.95) -> tuple[Any, Any]:
    """Student's interval of a mean over seeds, as (low, high).

    Args:
        values: [..., n]: one a seed along the last axis, at least two.
        level: of confidence.
    Returns:
        two arrays [...], or two numbers where ``values`` is [n].
    Raises:
        ValueError: fewer than two seeds, a value that is not finite, or a level outside (0, 1).
    """
    x = np.asarray(values, float)
    if not x.ndim or x.shape[-1] < 2:
        raise ValueError("an interval over seeds needs at least two")
    _check_level(level)
    _check_seeds(x)
    half = stats.t.ppf((1 + level) / 2, x.shape[-1] - 1) * stats.sem(x, axis=-1)
    return x.mean(-1) - half, x.mean(-1) + half


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979), in the order given.

    If we reject where the adjusted value is below 0.05, the whole family has a false finding with a
    probability of at most 0.05. This holds however the tests depend on each other.

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    p = np.asarray(p_values, float)
    if p.size and not (p.min() >= 0 and p.max() <= 1):
        raise ValueError(f"p-values must lie in [0, 1]: {list(p_values)}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted.tolist()


def seed_spread(means: Sequence[float]) -> Spread:
    """A recipe's figure over seeds: mean, standard deviation, smallest and largest.

    Raises:
        ValueError: no seed, or a value that is not finite.
    """
    if not len(means):
        raise ValueError("a spread over seeds needs at least one run")
    x = np.asarray(means, float)
    _check_seeds(x)
    sd = float(x.std(ddof=1)) if len(x) > 1 else float("nan")
    return Spread(float(x.mean()), sd, float(x.min()), float(x.max()), len(x))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), not {level}")


def _check_seeds(x: Floats) -> None:
    """Refuse values of seeds, along the last axis, that have no mean; names the first seed."""
    if not np.isfinite(x).all():
        *_, first = np.argwhere(~np.isfinite(x))[0]
        value = x[~np.isfinite(x)][0]
        raise ValueError(f"seed {first} (from 0) has the value {value}, which has no mean")


def _checked(values: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats]:
    x = np.asarray(values, float)
    w = np.ones_like(x) if weights is None else np.asarray(weights, float)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"values must be one a example and at least one, not of shape {x.shape}")
    if not np.isfinite(x).all():
        first = int(np.argmin(np.isfinite(x)))
        raise ValueError(f"example {first} has the value {x[first]}, which has no mean")
    if w.shape != x.shape or not (np.isfinite(w).all() and w.min() >= 0 and w.sum() > 0):
        raise ValueError(f"weights must be {len(x)} numbers, none negative and not all 0")
    return x, w


def _means(x: Floats, w: Floats, resamples: int, seed: int) -> Floats:
    """The weighted mean of every resample, [resamples]."""
    columns = np.stack([w * x, w], axis=1)  # [n, 2]
    sums = np.concatenate([counts @ columns for counts in _draws(len(x), resamples, seed)])
    # A resample in which no example has a weight has no mean; few examples must have one for that.
    total, weight = sums[sums[:, 1] > 0].T
    return total / weight


def _draws(n: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each resample draws each example, [block, n] at a time."""
    kept = n * resamples <= KEPT_ENTRIES
    for counts in _kept_counts(n, resamples, seed) if kept else _counts(n, resamples, seed):
        yield counts.astype(float)


@lru_cache(maxsize=2)
def _kept_counts(n: int, resamples: int, seed: int) -> list[NDArray[np.uint8]]:
    # All metrics of a run have the same examples, and so the same draws. No example is drawn 256
    # times: where n is large enough for it, the odds are below 1e-500.
    return [counts.astype(np.uint8) for counts in _counts(n, resamples, seed)]


def _counts(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int_]]:
    block, rng = max(1, BLOCK_ENTRIES // n), np.random.default_rng(seed)
    for start in range(0, resamples, block):
        yield _count(n, min(block, resamples - start), rng)


def _count(n: int, rows: int, rng: np.random.Generator) -> NDArray[np.int_]:
    drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)


def _interval(x: Floats, w: Floats, means: Floats, level: float) -> Interval:
    n, mean = len(x), float(w @ x / w.sum())
    if np.ptp(x[w > 0]) == 0:
        return Interval(mean, mean, mean, n, 0.0)
    influence = w * (x - mean) / w.sum()
    error = float(np.sqrt(n / (n - 1) * (influence**2).sum()))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), n, error)
