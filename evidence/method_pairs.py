"""Pairs of methods: the audit's questions that a study's own report does not answer.

    python -m evidence method_pairs_toy runs/demo          # after `make demo`
    python -m evidence method_pairs_smol runs/demo-smol    # after `make demo-smol`

It measures

- differences between methods, example by example, with 95% intervals over the test examples. Holm's
  method adjusts all p-values together. A difference is significant only if it also holds between
  every two seeds, as in the report.
- equation 4 of the post: the divergence of whole answers, as the sum of the tokens' divergences
  along the dataset's answers and along sampled ones.
- Table 1 of the post: how many test examples its differences need to be told from 0 in a paired
  comparison. We assume the scatter of our own answers.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from kd_lab.demo import STUDIES
from kd_lab.evaluation.evaluate import RESULT
from kd_lab.evaluation.intervals import bootstrap_interval, paired_difference
from kd_lab.evaluation.metrics import METRICS, TABLE_1
from kd_lab.report.comparisons import compare
from kd_lab.report.published import PUBLISHED
from kd_lab.report.runs import Row, Run, read_rows
from kd_lab.runs.versions import run_versions

PAIRS = (
    ("token_rkl", "token_fkl"),
    ("token_fkl", "sft"),
    ("token_rkl", "sft"),
    ("token_fkl", "seqkd"),
    ("token_rkl", "seqkd"),
    ("token_akl", "token_fkl"),
    ("token_akl", "token_rkl"),
    ("seq_fkl", "token_fkl"),
    ("seq_rkl", "token_rkl"),
    ("minillm", "seq_rkl"),
)
# Rows of kd_lab/report/published.py, each less the other.
PUBLISHED_PAIRS = {
    "forward KL less reverse KL": (4, 6),
    "forward KL less SFT": (4, 1),
    "reverse KL less SFT": (6, 1),
    "half SFT less most SFT": (4, 5),
    "Ultra start less Instruct start": (4, 3),
}
TEST_SFT_ROWS = 23_110  # of UltraChat-200k's split test_sft
NORMAL = float(norm.ppf(0.975))


def measure_toy(runs: Path) -> dict[str, Any]:
    """The pairs of the toy study."""
    return pairs_of_study(finished_runs("toy", runs)) | {"versions": run_versions({})}


def measure_smol(runs: Path) -> dict[str, Any]:
    """The pairs of the smol study."""
    return pairs_of_study(finished_runs("smol", runs)) | {"versions": run_versions({})}


def finished_runs(name: str, folder: Path) -> list[Path]:
    """The folders of a study's evaluated runs.

    Another study may have added other methods and seeds to the same folder.

    Args:
        name: of a study of ``kd-lab demo``.
        folder: the study's folder.
    Raises:
        ValueError: a run has no evaluation.
    """
    study = STUDIES[name]
    tasks = study.tasks(folder, study.seeds, False)
    runs = [task.result.parent for task in tasks if task.result.name == RESULT]
    if missing := [run for run in runs if not (run / RESULT).exists()]:
        raise ValueError(
            f"{missing[0]} holds no {RESULT}: run `kd-lab demo --study {name}` to its end first"
        )
    return runs


def pairs_of_study(runs: Sequence[Path]) -> dict[str, Any]:
    """All three measurements on the runs of one study (folders NAME-SEED).

    Returns:
        ``examples`` and ``seeds``; ``differences``: "a less b" -> metric -> mean, low, high, p,
        significant; ``equation_4``; ``table_1``.
    Raises:
        ValueError: the runs cannot be compared.
    """
    rows = {
        row.runs[0].folder.name.rpartition("-")[0]: row
        for row in read_rows(runs)
        if not row.is_teacher
    }
    first = rows["token_fkl"]
    return {
        "examples": first.runs[0].evaluation["test_set"]["examples"],
        "seeds": len(first.runs),
        "differences": differences(rows),
        "equation_4": {name: equation_4(row.runs) for name, row in rows.items() if row.p},
        "table_1": published_differences(rows),
    }


def differences(rows: Mapping[str, Row]) -> dict[str, dict[str, Any]]:
    """The difference of every pair of methods in the study, on every common metric."""
    asked = [
        (rows[a], rows[b], metric)
        for a, b in PAIRS
        if a in rows and b in rows
        for metric in METRICS
        if rows[a].has(metric.name) and rows[b].has(metric.name)
    ]
    names = {row.name: name for name, row in rows.items()}
    found: dict[str, dict[str, Any]] = {}
    for each in compare(asked):
        pair = f"{names[each.row.name]} less {names[each.against.name]}"
        mean, low, high, _ = each.difference
        found.setdefault(pair, {})[each.metric.name] = {
            "mean": mean,
            "low": low,
            "high": high,
            "p": each.adjusted_p,
            "significant": "significant" if each.significant else "not significant",
        }
    return found


def equation_4(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """The sum of the tokens' divergences in nats an answer, by the source of the prefixes.

    By the chain rule D(p‖q) of whole answers is the expectation of that sum over answers of p, and
    D(q‖p) that over answers of q. Equation 4 names no expectation. A token-level loss sums along
    the dataset's answers.

    Returns:
        for "forward" and "reverse", as means over the seeds' means:
        - ``dataset``, ``sampled``: the sum along these answers, with an interval over examples.
        - ``ratio``: ``sampled`` over ``dataset``.
        - ``difference``: ``sampled`` less ``dataset``, paired.
    """
    found = {}
    for direction in ("forward", "reverse"):
        dataset = np.mean([_summed(run, f"{direction}_kl") for run in runs], axis=0)
        name = f"sequence_{direction}_kl_rao_blackwell"
        sampled = np.mean([run.evaluation["metrics"][name]["values"] for run in runs], axis=0)
        difference = paired_difference(sampled, dataset)._asdict()
        found[direction] = {
            "dataset": bootstrap_interval(dataset)._asdict(),
            "sampled": bootstrap_interval(sampled)._asdict(),
            "ratio": float(sampled.mean() / dataset.mean()),
            "difference": difference,
        }
    return found


def _summed(run: Run, metric: str) -> np.ndarray:
    """The mean over tokens times the number of tokens: nats an answer, [n]."""
    tokens = run.weights(metric)
    assert tokens is not None
    return np.multiply(run.evaluation["metrics"][metric]["values"], tokens)


def published_differences(rows: Mapping[str, Row]) -> dict[str, Any]:
    """Table 1's differences in ROUGE, and the examples it would take to tell them from 0.

    The deviation is that of this study: of the difference on one example between a run of forward
    KL and a run of reverse KL.

    Returns:
        - ``deviation``: metric -> that deviation.
        - ``seeds``: metric -> the largest standard deviation between seeds of a method.
        - ``seeds_apart``: metric -> how far two seeds of a method can lie apart (95%).
        - ``pairs``: words -> metric -> ``difference`` and ``examples``.
        - ``test_sft_rows``: the size of UltraChat-200k's split.
        - ``resolved``: metric -> the smallest difference that so many examples tell from 0.
    """
    one, other = rows["token_fkl"].runs, rows["token_rkl"].runs
    metrics = [metric for metric in TABLE_1 if rows["token_fkl"].has(metric.name)]
    deviation = {metric.name: _deviation(one, other, metric.name) for metric in metrics}
    seeds = {metric.name: _largest_seed_deviation(rows, metric.name) for metric in metrics}
    pairs: dict[str, dict[str, Any]] = {}
    for words, (a, b) in PUBLISHED_PAIRS.items():
        for metric in metrics:
            scores = (PUBLISHED[a].score(metric.name), PUBLISHED[b].score(metric.name))
            assert scores[0] is not None
            assert scores[1] is not None
            difference = round(scores[0] - scores[1], 4)
            examples = math.ceil((NORMAL * deviation[metric.name] / difference) ** 2)
            pairs.setdefault(words, {})[metric.name] = {
                "difference": difference,
                "examples": examples,
            }
    return {
        "deviation": deviation,
        "seeds": seeds,
        "seeds_apart": {
            name: value and NORMAL * math.sqrt(2) * value for name, value in seeds.items()
        },
        "pairs": pairs,
        "test_sft_rows": TEST_SFT_ROWS,
        "resolved": {
            name: NORMAL * value / math.sqrt(TEST_SFT_ROWS) for name, value in deviation.items()
        },
    }


def _deviation(one: Sequence[Run], other: Sequence[Run], metric: str) -> float:
    """The deviation of the difference on one example, over all pairs of two methods' runs."""
    variances = [
        np.var(
            np.subtract(*(run.evaluation["metrics"][metric]["values"] for run in (a, b))), ddof=1
        )
        for a in one
        for b in other
    ]
    return float(np.sqrt(np.mean(variances)))


def _largest_seed_deviation(rows: Mapping[str, Row], metric: str) -> float | None:
    deviations = [
        float(np.std([run.evaluation["metrics"][metric]["mean"] for run in row.runs], ddof=1))
        for row in rows.values()
        if len(row.runs) > 1
    ]
    return max(deviations, default=None)
