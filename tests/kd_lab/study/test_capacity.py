"""The sweep over sizes: which runs it has, and what it makes of their evaluations."""

import io
import json

import pytest
from PIL import Image
from scipy import stats

from kd_lab.study.capacity import (
    COMPARED,
    SIZES,
    capacity_findings,
    capacity_results,
    capacity_study,
    draw_capacity,
)
from kd_lab.study.schedule import Schedule
from kd_lab.study.sweep import METRICS

COVERAGE = {"start": 0.9, "sft": 0.9, "token_fkl": 0.95, "token_rkl": 0.80}


@pytest.fixture
def evaluated(tmp_path):
    """An evaluation.json for every run, coverage growing by 0.01 with the seed under reverse KL."""
    for task in capacity_study(tmp_path, seeds=3):
        if not task.name.startswith("evaluate"):
            continue
        name = task.result.parent.name
        *_, method, seed = ("", "start", "1") if name == "teacher" else name.split("-")
        coverage = COVERAGE[method] + (0.01 * int(seed) if method == "token_rkl" else 0)
        metrics = {metric: {"mean": 0.5} for metric in METRICS} | {"coverage": {"mean": coverage}}
        task.result.parent.mkdir()
        task.result.write_text(
            json.dumps(
                {
                    "metrics": metrics,
                    "speed": {"student": {"parameters": 1000}},
                    "test_set": {"examples": 300},
                }
            )
        )
    return tmp_path


def test_every_size_and_seed_has_a_start_and_three_students(tmp_path):
    tasks = capacity_study(tmp_path, seeds=2)
    schedule = Schedule(tmp_path, tasks)
    trained = [task.name for task in tasks if task.name.startswith("train")]
    assert len(trained) == 1 + 2 * (len(SIZES) * (1 + len(COMPARED)) + 2)
    assert "train 1x16-start-2" in schedule.tasks["train 1x16-token_rkl-2"].after


def test_gaps_are_paired_by_seed_with_a_t_interval(evaluated):
    results = capacity_results(evaluated, seeds=3)
    gap = results["sizes"][0]["gaps"]["coverage"]
    assert gap["values"] == pytest.approx([-0.14, -0.13, -0.12])
    test = stats.ttest_1samp(gap["values"], 0).confidence_interval(0.95)
    assert (gap["low"], gap["high"]) == pytest.approx((test.low, test.high))
    assert results["random"]["methods"]["token_fkl"]["coverage"]["mean"] == pytest.approx(0.95)
    assert json.loads(json.dumps(results)) == results
    sentence = capacity_findings(results)[0]
    assert "-0.130 (-0.155 to -0.105) at 1x16" in sentence


def test_one_seed_has_no_interval(evaluated):
    results = capacity_results(evaluated, seeds=1)
    assert results["sizes"][0]["gaps"]["coverage"]["low"] is None
    assert "one seed" in capacity_findings(results)[0]
    draw_capacity(results)


def test_the_picture_has_a_line_for_each_method(evaluated):
    picture = Image.open(io.BytesIO(draw_capacity(capacity_results(evaluated, seeds=3))))
    assert picture.format == "PNG"
    colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x6E, 0x6E, 0x6E)} <= colours
