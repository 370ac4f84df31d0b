"""The sweep over learning rates: which runs it has, and how it picks each method's best rate."""

import io
import json

import pytest
from PIL import Image

from kd_lab.study.learning_rate import COMMON, LEARNING_RATE, RATES, learning_rate_study
from kd_lab.study.schedule import Schedule
from kd_lab.study.sweep import METRICS
from kd_lab.study.toy import SECONDS

SEEDS = 2


@pytest.fixture
def results(tmp_path):
    """Forward KL is best at the lowest rate, all others at the common one."""
    for task in learning_rate_study(tmp_path, SEEDS):
        if not task.name.startswith("evaluate"):
            continue
        name = task.result.parent.name
        metrics = {metric: {"mean": 0.5} for metric in METRICS}
        best = RATES[0] if name.startswith("token_fkl") else COMMON
        if f"_{best:g}-" in name:
            seed = int(name[-1])
            metrics |= {"precision": {"mean": 0.6 + 0.1 * seed}, "coverage": {"mean": 0.9}}
        task.result.parent.mkdir()
        evaluation = {"metrics": metrics, "speed": {"student": {"parameters": 9}}, "test_set": {}}
        task.result.write_text(json.dumps(evaluation))
    return LEARNING_RATE.results(tmp_path, SEEDS)


def test_runs_of_one_seed_differ_in_the_rate_alone(tmp_path):
    tasks = learning_rate_study(tmp_path, SEEDS)
    assert len(tasks) == 4 + 2 * SEEDS * len(SECONDS) * len(RATES)
    schedule = Schedule(tmp_path, tasks)
    low, high = (schedule.tasks[f"train token_rkl_{rate:g}-2"].words for rate in (1e-3, 1e-2))
    assert {word for word in low if word not in high} == {
        "0.001",
        str(tmp_path / "token_rkl_0.001-2"),
    }
    assert "generate teacher_answers" in schedule.tasks["train seq_fkl_0.003-1"].after


def test_each_method_is_read_at_its_best_rate_and_at_the_common_one(results):
    forward, reverse = results["methods"]["token_fkl"], results["methods"]["token_rkl"]
    assert (forward["best"], reverse["best"]) == (RATES[0], COMMON)
    assert forward["at_best"]["precision"]["values"] == [pytest.approx(0.7), pytest.approx(0.8)]
    assert forward["at_common"]["precision"]["values"] == [0.5, 0.5]
    # 2 · 0.7 · 0.9 / 1.6
    assert forward["at_best"]["balance"]["values"][0] == pytest.approx(0.7875)
    assert forward["gains_at_best"]["precision"]["mean"] == pytest.approx(0)
    assert forward["gains_at_common"]["precision"]["mean"] == pytest.approx(-0.25)
    assert forward["gains_at_common"]["precision"]["above_zero"] == 0
    assert [at["rate"] for at in reverse["by_rate"]] == list(RATES)


def test_a_sentence_a_method_and_a_picture(results):
    sentences = LEARNING_RATE.findings(results)
    assert len(sentences) == len(SECONDS)
    assert "dataset × FKL: best at 0.0003, with precision 0.750" in sentences[1]
    assert Image.open(io.BytesIO(LEARNING_RATE.draw(results))).size[0] > 800
