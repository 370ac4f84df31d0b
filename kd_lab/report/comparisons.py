"""The numbers of a report: means over seeds, differences to SFT, and the best of each column.

Examples are the same for all runs. So a row's value of an example is its mean over the row's seeds,
and two rows are compared example by example (paired bootstrap, ``intervals.py``). Such an interval
says how far other test examples would move a figure. The spread between seeds says how far another
training seed would. A difference is significant only if every seed of the one row lies beyond every
seed of the other.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby
from typing import NamedTuple

import numpy as np

from kd_lab.evaluation.intervals import (
    RESAMPLES,
    Difference,
    Spread,
    bootstrap_interval,
    holm,
    paired_difference,
    seed_spread,
)
from kd_lab.evaluation.metrics import COMPARED, METRICS, NUM_COMPARED, Metric
from kd_lab.report.runs import Row

SIGNIFICANT = 0.05
# The smallest p of a resampling is 2 / (resamples + 1): with so many resamples for each comparison
# it can still be below 0.05 when it is multiplied by their number.
RESAMPLES_A_COMPARISON = 50


class Figure(NamedTuple):
    """A row's mean of one metric, its 95% interval over examples, and its spread over seeds."""

    mean: float
    low: float
    high: float
    seeds: Spread


class Comparison(NamedTuple):
    """One row against another on one metric."""

    row: Row
    against: Row
    metric: Metric
    difference: Difference  # row - against
    adjusted_p: float
    significant: bool


@cache
def figure(row: Row, metric: Metric) -> Figure | None:
    """A cell of the table; None where a run of the row lacks the metric.

    A single run's cell is the figure in evaluation.json. A teacher is not compared with itself.
    """
    if not row.has(metric.name) or (row.is_teacher and metric.of_teacher):
        return None
    spread = _over_seeds(row, metric)
    if len(row.runs) == 1:
        measured = row.runs[0].evaluation["metrics"][metric.name]
        return Figure(spread.mean, measured["low"], measured["high"], spread)
    interval = bootstrap_interval(_values(row, metric), row.runs[0].weights(metric.name))
    return Figure(spread.mean, interval.low, interval.high, spread)


def compared_metrics(rows: Sequence[Row]) -> list[Metric]:
    """The metrics whose difference to SFT is reported."""
    present = [metric for metric in COMPARED if any(row.has(metric.name) for row in rows)]
    return present[:NUM_COMPARED]


def differences_to_sft(rows: Sequence[Row]) -> list[Comparison]:
    """Every row against the (first) SFT from where it started, p adjusted over all of them."""
    controls: dict[str, Row] = {}
    for row in rows:
        if row.is_sft:
            controls.setdefault(row.start, row)
    return compare(
        (row, control, metric)
        for metric in compared_metrics(rows)
        for row in rows
        if (control := controls.get(row.start)) not in (None, row)
        if _can_be_compared([row, control], metric)
    )


def best_of_columns(rows: Sequence[Row]) -> tuple[set[tuple[str, str]], int]:
    """The best cells of their columns, as (name of the row, name of the metric).

    Rivals are the students of one size. The best must differ significantly from each rival, with p
    adjusted over the comparisons of all columns. Nothing is best where a student lacks the metric,
    or where the rivals have different teachers.

    Returns:
        the cells, and the number of comparisons.
    """
    students = sorted((r for r in rows if not r.is_teacher), key=lambda r: r.parameters)
    pairs = []
    for _, same_size in groupby(students, key=lambda row: row.parameters):
        rivals = list(same_size)
        for metric in METRICS:
            if metric.better and _can_be_compared(rivals, metric):
                means = [metric.better * _over_seeds(rival, metric).mean for rival in rivals]
                best = rivals[int(np.argmax(means))]
                pairs += [(best, other, metric) for other in rivals if other is not best]
    # Where seeds overlap nothing is significant. So p is taken as 1, without a bootstrap.
    apart = [pair for pair in pairs if _seeds_apart(*pair)]
    comparisons = compare(apart, num_others=len(pairs) - len(apart))
    clear = [(c.row.name, c.metric.name) for c in comparisons if c.significant]
    rivals_of = Counter((best.name, metric.name) for best, _, metric in pairs)
    return {cell for cell, won in Counter(clear).items() if won == rivals_of[cell]}, len(pairs)


def compare(pairs: Iterable[tuple[Row, Row, Metric]], num_others: int = 0) -> list[Comparison]:
    """Differences, each of the first row less the second.

    p is adjusted over all of them and ``num_others`` more, which are taken as not significant.
    """
    pairs = list(pairs)
    resamples = max(RESAMPLES, RESAMPLES_A_COMPARISON * (len(pairs) + num_others))
    differences = [
        paired_difference(
            _values(row, metric),
            _values(against, metric),
            row.runs[0].weights(metric.name),
            resamples=resamples,
        )
        for row, against, metric in pairs
    ]
    adjusted = holm([difference.p_value for difference in differences] + [1.0] * num_others)
    return [
        Comparison(*pair, difference, p, p < SIGNIFICANT and _seeds_apart(*pair))
        for pair, difference, p in zip(pairs, differences, adjusted, strict=False)
    ]


def _seeds_apart(row: Row, against: Row, metric: Metric) -> bool:
    a, b = _over_seeds(row, metric), _over_seeds(against, metric)
    return a.low > b.high or b.low > a.high


def _can_be_compared(rows: Sequence[Row], metric: Metric) -> bool:
    one_teacher = len({row.teacher for row in rows}) == 1
    measured = all(row.has(metric.name) for row in rows)
    return measured and (one_teacher or not metric.of_teacher)


def _over_seeds(row: Row, metric: Metric) -> Spread:
    return seed_spread([run.evaluation["metrics"][metric.name]["mean"] for run in row.runs])


def _values(row: Row, metric: Metric) -> np.ndarray:
    """The mean over the row's seeds at each example, [n]."""
    runs = [run.evaluation["metrics"][metric.name]["values"] for run in row.runs]
    return np.mean(runs, axis=0)
