"""Pairs of methods: whose mean is taken from whose, equation 4, and Table 1's test set."""

import math
from pathlib import Path

import numpy as np
import pytest

from evidence.method_pairs import (
    PUBLISHED_PAIRS,
    differences,
    equation_4,
    measure_smol,
    published_differences,
)
from kd_lab.methods import METHODS
from kd_lab.report.published import PUBLISHED
from kd_lab.report.runs import Row, Run

N = 400


def run(method: str, seed: int, **metrics: np.ndarray) -> Run:
    """An evaluated run; of its answers every other one has 10 tokens and the others 20."""
    evaluation = {
        "metrics": {
            name: {
                "values": values.tolist(),
                "mean": float(values.mean()),
                "weights": "tokens" if name in ("forward_kl", "reverse_kl") else None,
            }
            for name, values in metrics.items()
        },
        "weights": {"tokens": [10.0, 20.0] * (N // 2)},
        "student": {"name": method, "sha256": f"{method}{seed}"},
        "teacher": {"name": "teacher", "sha256": "teacher"},
    }
    return Run(Path(f"{method}-{seed}"), evaluation, {}, [])


@pytest.fixture
def rows():
    draw = np.random.default_rng(0)
    level = draw.normal(0.5, 0.1, N)
    means = {"token_fkl": 0.0, "token_rkl": 0.05}
    return {
        method: Row(
            [run(method, s, rouge1=level + mean + draw.normal(0, 0.03, N)) for s in (1, 2)],
            False, "", "start", "teacher", METHODS[method].point, name=method,
        )
        for method, mean in means.items()
    }  # fmt: skip


def test_a_difference_is_the_first_less_the_second(rows):
    found = differences(rows)["token_rkl less token_fkl"]["rouge1"]
    assert found["low"] < 0.05 < found["high"]
    assert found["significant"] == "significant"


def test_equation_4_sums_over_the_tokens_of_an_answer():
    flat = np.full(N, 0.02)
    sampled = {f"sequence_{d}_kl_rao_blackwell": np.full(N, 0.6) for d in ("forward", "reverse")}
    found = equation_4([run("token_fkl", 1, forward_kl=flat, reverse_kl=flat / 2, **sampled)])
    assert found["forward"]["dataset"]["mean"] == pytest.approx(0.02 * 15)
    assert found["forward"]["ratio"] == pytest.approx(2)
    assert found["reverse"]["difference"]["mean"] == pytest.approx(0.6 - 0.15)


def test_the_examples_asked_for_are_just_enough(rows):
    found = published_differences(rows)
    # Between two runs of one example: their own scatter, twice; what they share falls out.
    assert found["deviation"]["rouge1"] == pytest.approx(0.03 * math.sqrt(2), rel=0.1)
    for pair in found["pairs"].values():
        difference, n = abs(pair["rouge1"]["difference"]), pair["rouge1"]["examples"]
        half_width = 1.959964 * found["deviation"]["rouge1"] / np.sqrt([n, n - 1])
        assert half_width[0] <= difference * 1.00001
        assert half_width[1] > difference


def test_the_published_pairs_are_the_rows_that_they_say():
    for words, (a, b) in PUBLISHED_PAIRS.items():
        rows = [PUBLISHED[a], PUBLISHED[b]]
        if "start" not in words:
            assert {row.q for row in rows} <= {"ultra_1.5b", "Qwen2.5-1.5B"}
        for row, side in zip(rows, words.split(" less "), strict=True):
            if side in ("forward KL", "reverse KL"):
                column = row.point.column
                assert (row.point.prefixes, column, row.point.alpha) == ("dataset", side, 0.5)
            if side == "SFT":
                assert row.method == "sft"
    table = published_differences_of_table_1()
    assert table == {"forward KL less reverse KL": 0.0113, "forward KL less SFT": 0.0109}


def published_differences_of_table_1() -> dict[str, float]:
    """By hand, from the post: 0.5404 - 0.5291 and 0.5404 - 0.5295."""
    return {
        words: round(PUBLISHED[a].scores[0] - PUBLISHED[b].scores[0], 4)
        for words, (a, b) in list(PUBLISHED_PAIRS.items())[:2]
    }


def test_a_study_that_is_not_finished_is_refused(tmp_path):
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match=r"seqkd-1 holds no evaluation\.json: .* --study smol"):
        measure_smol(tmp_path)
