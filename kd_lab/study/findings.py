"""Three sentences on a study's results, computed from its runs.

Each difference has its 95% interval over the test examples. Significant means what it means in the
report: by paired bootstrap, after Holm's adjustment, and only if every seed of the one row lies
beyond every seed of the other.
"""

from collections.abc import Sequence

from kd_lab.evaluation.metrics import METRICS, Metric
from kd_lab.report.comparisons import Comparison, best_of_columns, compare, figure
from kd_lab.report.runs import Row

BY_NAME = {metric.name: metric for metric in METRICS}


def toy_findings(rows: Sequence[Row]) -> list[str]:
    """The findings of the study on the toy language about forward and reverse KL."""
    by_method = {row.method: row for row in rows}
    forward, reverse, sft = (by_method[key] for key in ("token_fkl", "token_rkl", "sft"))
    precision, coverage, invented = (
        BY_NAME[name] for name in ("precision", "coverage", "hallucination")
    )
    kept = compare([(reverse, forward, precision), (reverse, forward, coverage)])
    blamed = compare([(reverse, forward, invented), (forward, sft, invented)])
    shares = [f"{_mean(row, invented):.1%}" for row in (forward, reverse, sft)]
    return [
        f"{_modes(*kept)}: {_against(kept[0])}, "
        f"{_difference(kept[0])} in precision and {_difference(kept[1])} in coverage.",
        "Guests and hours that nobody named, which the post blames on forward KL, are in "
        f"{shares[0]} of its answers, {shares[1]} of reverse KL's and {shares[2]} of SFT's: "
        + ", ".join(f"{_against(each)} {_difference(each)}" for each in blamed)
        + ".",
        _nearest(rows),
    ]


def smol_findings(rows: Sequence[Row]) -> list[str]:
    """The findings of the study on the real model about forward and reverse KL."""
    by_column = {row.point.column: row for row in rows if row.point and not row.gives}
    forward, reverse, sft = (by_column[name] for name in ("forward KL", "reverse KL", "none"))
    rouge, forward_kl, reverse_kl = (BY_NAME[m] for m in ("rougeL", "forward_kl", "reverse_kl"))
    directions = compare([(reverse, forward, forward_kl), (reverse, forward, reverse_kl)])
    helped = compare([(forward, sft, rouge), (reverse, sft, rouge)])
    return [
        f"{_against(directions[0])}: its forward KL to the teacher is "
        f"{_difference(directions[0])} nats a token, its reverse KL {_difference(directions[1])}.",
        "What the teacher's distributions add to its answers, in ROUGE-L: "
        + ", ".join(f"{_against(each)} {_difference(each)}" for each in helped)
        + ".",
        _nearest(rows),
    ]


def _modes(precision: Comparison, coverage: Comparison) -> str:
    seeks = precision.significant and precision.difference.mean > 0
    narrows = coverage.significant and coverage.difference.mean < 0
    if seeks and narrows:
        return "Reverse KL seeks modes and forward KL covers them"
    if seeks:
        return "Reverse KL is the more precise, without a significant loss of coverage"
    if narrows:
        return "Forward KL covers more, and reverse KL is not significantly more precise"
    return "Forward and reverse KL do not differ in coverage and precision as the post says"


def _nearest(rows: Sequence[Row]) -> str:
    """The student nearest to the teacher, in each direction of KL."""
    best, _ = best_of_columns(rows)
    students = [row for row in rows if row.p]
    parts = []
    for name in ("forward_kl", "reverse_kl"):
        metric = BY_NAME[name]
        first = min(students, key=lambda row: _mean(row, metric))
        doubt = "" if (first.name, name) in best else "; not significantly before all others"
        value = f"{_mean(first, metric):.3f} nats a token{doubt}"
        parts.append(f"by {metric.label} it is {_name(first)} ({value})")
    return f"Of all students the nearest to the teacher: {', '.join(parts)}."


def _against(comparison: Comparison) -> str:
    return f"{_name(comparison.row)} against {_name(comparison.against)}"


def _difference(comparison: Comparison) -> str:
    mean, low, high, _ = comparison.difference
    doubt = "" if comparison.significant else "; not significant"
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f}{doubt})"


def _name(row: Row) -> str:
    return row.point.words if row.point and not row.gives else row.name


def _mean(row: Row, metric: Metric) -> float:
    found = figure(row, metric)
    return float("nan") if found is None else found.mean
