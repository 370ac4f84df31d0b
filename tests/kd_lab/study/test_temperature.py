"""The sweep over temperatures: which runs it has, on both models, and what it makes of them."""

import io
import json

import pytest
from PIL import Image
from scipy import stats

from kd_lab.study.schedule import Schedule
from kd_lab.study.smol import smol_study
from kd_lab.study.sweep import METRICS
from kd_lab.study.temperature import (
    SMOL_METRICS,
    SMOL_TEMPERATURE,
    TEMPERATURE,
    smol_temperature_study,
    temperature_study,
)

SEEDS = 3


def coverage_of(kind: str, seed: int) -> float:
    """Forward KL has 0.9 at T = 1 and gains 0.01 a seed at T = 4; reverse KL has 0.8."""
    if "rkl" in kind:
        return 0.8
    return 0.9 + (0.01 * seed if kind.endswith("t4") else 0)


def write_evaluations(tasks, metrics) -> None:
    for task in tasks:
        if not task.name.startswith("evaluate"):
            continue
        kind, _, seed = task.result.parent.name.partition("-")
        found = {metric: {"mean": 0.5} for metric in metrics}
        found |= {"coverage": {"mean": coverage_of(kind, int(seed or 0))}}
        task.result.parent.mkdir(parents=True, exist_ok=True)
        task.result.write_text(
            json.dumps(
                {
                    "metrics": found,
                    "speed": {"student": {"parameters": 1000}},
                    "test_set": {"examples": 300},
                }
            )
        )


@pytest.fixture
def results(tmp_path):
    write_evaluations(temperature_study(tmp_path, SEEDS), METRICS)
    return TEMPERATURE.results(tmp_path, SEEDS)


def test_of_each_seed_all_go_on_from_one_start(tmp_path):
    tasks = temperature_study(tmp_path, SEEDS)
    schedule = Schedule(tmp_path, tasks)
    assert len([task for task in tasks if task.name.startswith("train")]) == 1 + SEEDS * (1 + 2 * 3)
    for name, temperature in (("token_rkl-2", "1"), ("token_rkl_t4-2", "4")):
        words = schedule.tasks[f"train {name}"].words
        assert words[words.index("--distil_temperature") + 1] == temperature
        assert words[words.index("--model_name_or_path") + 1] == str(tmp_path / "start-2")
        assert words[words.index("--seed") + 1] == "2"


def test_gaps_and_changes_are_paired_by_seed(results):
    first, _, warmest = results["temperatures"]
    assert [point["temperature"] for point in results["temperatures"]] == [1, 2, 4]
    assert first["gaps"]["coverage"]["values"] == pytest.approx([-0.1] * SEEDS)
    assert first["gaps"]["coverage"]["above_zero"] == 0
    change = warmest["changes"]["token_fkl"]["coverage"]
    assert change["values"] == pytest.approx([0.01, 0.02, 0.03])
    assert change["above_zero"] == SEEDS
    test = stats.ttest_1samp(change["values"], 0).confidence_interval(0.95)
    assert (change["low"], change["high"]) == pytest.approx((test.low, test.high))
    assert json.loads(json.dumps(results)) == results


def test_findings_and_picture(results):
    sentences = TEMPERATURE.findings(results)
    assert "-0.120 (-0.145 to -0.095) at T = 4 (above 0 in 0 of 3 seeds)" in sentences[0]
    changed = (
        "forward KL's coverage by +0.000 (+0.000 to +0.000) at T = 2 (above 0 in 0 of 3 seeds)"
    )
    assert any(changed in sentence for sentence in sentences)
    picture = Image.open(io.BytesIO(TEMPERATURE.draw(results))).convert("RGB")
    colours = {colour for _, colour in picture.getcolors(2**24)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours


def test_on_the_real_model_it_goes_on_in_the_folder_of_its_study(tmp_path):
    tasks = Schedule(tmp_path, smol_temperature_study(tmp_path, 2)).tasks
    before = Schedule(tmp_path, smol_study(tmp_path, 2)).tasks
    shared = tasks.keys() & before.keys()
    assert {"generate train_answers", "train token_fkl-1", "evaluate token_rkl-2"} <= shared
    assert all(tasks[name].fingerprint == before[name].fingerprint for name in shared)
    new = {name for name in tasks.keys() - before.keys() if name.startswith("train")}
    assert new == {f"train token_{kl}_t2-{seed}" for kl in ("fkl", "rkl") for seed in (1, 2)}
    warm, cold = (tasks[f"train {kind}-1"].words for kind in ("token_rkl_t2", "token_rkl"))
    own = ["--distil_temperature", "2", str(tmp_path / "token_rkl_t2-1")]
    assert [word for word in warm if word not in cold or word == "2"] == own


def test_results_of_the_real_model(tmp_path):
    write_evaluations(smol_temperature_study(tmp_path, 2), SMOL_METRICS)
    results = SMOL_TEMPERATURE.results(tmp_path, 2)
    assert [point["temperature"] for point in results["temperatures"]] == [1, 2]
    assert set(results["temperatures"][0]["gaps"]) == set(SMOL_METRICS)
    assert "ROUGE-L" in SMOL_TEMPERATURE.findings(results)[0]
    assert SMOL_TEMPERATURE.draw(results).startswith(b"\x89PNG")
