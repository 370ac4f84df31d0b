"""Intervals against known distributions, scipy, an exact permutation test and hand-worked Holm."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from kd_lab.evaluation.intervals import (
    Interval,
    bootstrap_interval,
    holm,
    paired_difference,
    seed_spread,
    t_interval,
)

REPEATS = 400


def coverage(draw, truth, n):
    """The share of REPEATS samples of size n whose interval holds the true mean."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(REPEATS):
        interval = bootstrap_interval(*draw(rng, n), resamples=1000)
        held += interval.low <= truth <= interval.high
    return held / REPEATS


# The binomial spread of a share near 0.95 over 400 samples is 0.011; a bootstrap of 60 to 100
# examples falls short of its level by about 0.01, or a little more under skewness.
# Three spreads are allowed.
@pytest.mark.parametrize(
    ("draw", "truth", "n"),
    [
        (lambda rng, n: (rng.normal(3, 2, n),), 3, 60),
        (lambda rng, n: (rng.exponential(1, n),), 1, 100),
        (lambda rng, n: ((rng.random(n) < 0.3).astype(float),), 0.3, 100),
        # Values that are their own weight: the true mean is E[x²] / E[x] = 2/3, not E[x] = 1/2.
        (lambda rng, n: 2 * (rng.random(n),), 2 / 3, 100),
    ],
    ids=["normal", "exponential", "share", "weighted"],
)
def test_an_interval_holds_the_true_mean_as_often_as_it_says(draw, truth, n):
    assert coverage(draw, truth, n) == pytest.approx(0.945, abs=0.035)


@pytest.mark.parametrize("weighted", [False, True])
def test_interval_is_that_of_scipy(weighted):
    rng = np.random.default_rng(1)
    x, w = rng.lognormal(size=80), rng.integers(1, 20, 80).astype(float)
    w = w if weighted else np.ones(80)
    ours = bootstrap_interval(x, w)
    theirs = stats.bootstrap(
        (x, w),
        lambda x, w, axis: (w * x).sum(axis) / w.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=10_000,
        rng=2,
    ).confidence_interval
    assert ours.mean == pytest.approx((w * x).sum() / w.sum())
    # Two sets of 10,000 resamples put an end point of a 95% interval within a few hundredths.
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.03)


def test_many_examples_are_drawn_in_blocks_and_few_at_once():
    x = np.random.default_rng(0).normal(size=30_000)
    mean, low, high, n, error = bootstrap_interval(x, resamples=500)
    assert n == 30_000
    assert error == pytest.approx(stats.sem(x))
    assert (low - mean, high - mean) == pytest.approx((-1.96 * error, 1.96 * error), rel=0.15)


def test_the_standard_error_is_the_spread_of_the_resampled_means():
    rng = np.random.default_rng(2)
    x, w = rng.exponential(size=200), rng.integers(1, 20, 200)
    some = rng.integers(200, size=(4000, 200))
    means = (w * x)[some].sum(1) / w[some].sum(1)
    assert bootstrap_interval(x, w).standard_error == pytest.approx(means.std(), rel=0.1)


def test_values_that_are_all_equal_are_their_own_interval():
    assert bootstrap_interval([0.25] * 7) == Interval(0.25, 0.25, 0.25, 7, 0)
    assert bootstrap_interval([5.0, 1.0], [0, 3]) == Interval(1, 1, 1, 2, 0)


def test_the_level_and_the_seed_do_what_they_say():
    x = np.random.default_rng(3).normal(size=50)
    half, most = bootstrap_interval(x, level=0.5), bootstrap_interval(x, level=0.99)
    assert most.low < half.low < half.mean < half.high < most.high
    assert bootstrap_interval(x, seed=4) == bootstrap_interval(x, seed=4)
    assert bootstrap_interval(x, seed=4) != bootstrap_interval(x, seed=5)


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6])
def test_paired_bootstrap_agrees_with_an_exact_permutation_of_signs(shift):
    rng = np.random.default_rng(7)
    b = rng.normal(size=16)
    difference = rng.normal(size=16) + shift
    signs = np.array(list(product([-1, 1], repeat=16)))  # all 65,536
    flipped = np.abs(signs @ difference)
    exact = (flipped >= abs(difference.sum()) - 1e-12).mean()
    ours = paired_difference(b + difference, b)
    assert ours.mean == pytest.approx(difference.mean())
    # With 16 examples a bootstrap takes the spread as √(15/16) of what it is, and is a bit bold.
    assert ours.p_value == pytest.approx(exact, abs=0.04)
    assert (ours.p_value < 0.05) == (exact < 0.05)


def test_the_p_value_inverts_the_interval():
    rng = np.random.default_rng(11)
    on_each_side = {True: 0, False: 0}
    for shift in np.linspace(0, 0.5, 40):
        a, b = rng.exponential(size=(2, 60))
        a += shift
        difference = paired_difference(a, b, resamples=2000)
        leaves_out_0 = not difference.low <= 0 <= difference.high
        if abs(difference.p_value - 0.05) > 0.002:  # one resample to each side
            assert leaves_out_0 == (difference.p_value < 0.05)
            on_each_side[leaves_out_0] += 1
    assert min(on_each_side.values()) > 3


def test_pairing_sees_what_two_separate_intervals_do_not():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 5, 100)
    a, b = hard + 0.2 + rng.normal(0, 0.3, 100), hard
    assert bootstrap_interval(a).low < bootstrap_interval(b).high
    assert paired_difference(a, b).p_value < 0.001
    reverse = paired_difference(b, a)
    assert reverse.mean == -paired_difference(a, b).mean


def test_equal_differences():
    assert paired_difference([1.0, 2.0], [1.0, 2.0]) == (0, 0, 0, 1)
    # Four signs agree by chance with probability 2 / 2^4, which is what the permutation test says.
    assert paired_difference([1.5] * 4, [1.0] * 4) == (0.5, 0.5, 0.5, 0.125)


def test_few_examples_are_no_proof():
    """Four differences of one sign have p 0.125 by the permutation of signs, equal or not."""
    assert paired_difference([1.5, 1.4, 1.5, 1.6], [1] * 4).p_value == 0.125
    alone = paired_difference([1, 0, 0], [0, 0, 0], [1, 0, 0])  # two have no weight
    assert alone.p_value == 1


def test_rounding_is_no_difference():
    rows = np.array([[0.1, 0.4] * 6, [0.2, 0.5] * 6, [0.3, 0.6] * 6])
    forwards, backwards = rows.mean(0), rows[::-1].mean(0)
    assert (forwards != backwards).any()
    found = paired_difference(forwards, backwards)
    assert (found.mean, found.p_value) == (0, 1)


def test_holm_by_hand():
    # In order: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.5 x 1, none below the one before it.
    assert holm([0.03, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_interval_over_seeds_is_that_of_a_paired_t_test():
    samples = np.random.default_rng(1).normal(3, 2, size=(5, 8))
    low, high = t_interval(samples, level=0.9)
    for row, ends in zip(samples, zip(low, high, strict=True), strict=True):
        assert ends == pytest.approx(stats.ttest_1samp(row, 0).confidence_interval(0.9))


def test_interval_over_eight_seeds_covers_the_truth_as_often_as_it_says():
    low, high = t_interval(np.random.default_rng(0).normal(size=(4_000, 8)))
    assert ((low < 0) & (high > 0)).mean() == pytest.approx(0.95, abs=0.01)


def test_spread_over_seeds():
    assert seed_spread([1.0, 2.0, 6.0]) == (3, pytest.approx(7**0.5), 1, 6, 3)
    alone = seed_spread([2.5])
    assert (alone.mean, alone.low, alone.high, alone.n) == (2.5, 2.5, 2.5, 1)
    assert np.isnan(alone.sd)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([]), "at least one"),
        (lambda: bootstrap_interval([[1.0]]), "not of shape"),
        (lambda: bootstrap_interval([1.0, np.inf]), "example 1 has the value inf"),
        (lambda: bootstrap_interval([1.0, 2.0], [1.0]), "weights must be 2 numbers"),
        (lambda: bootstrap_interval([1.0, 2.0], [0, 0]), "not all 0"),
        (lambda: bootstrap_interval([1.0, 2.0], level=95), "level must lie in"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "must be as many"),
        (lambda: t_interval([1.0]), "at least two"),
        (lambda: t_interval(1.0), "at least two"),
        (lambda: t_interval([[1.0, 2.0, 3.0], [4.0, 5.0, np.nan]]), "seed 2 .* has the value nan"),
        (lambda: t_interval([1.0, 2.0], level=95), "level must lie in"),
        (lambda: paired_difference([1.0, 2.0], [2.0, 1.0], level=95), "level must lie in"),
        (lambda: seed_spread([1.0, -np.inf]), "seed 1 .* has the value -inf"),
        (lambda: holm([0.5, 1.5]), "p-values must lie in"),
        (lambda: seed_spread([]), "at least one run"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
