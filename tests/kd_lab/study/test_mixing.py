"""The sweep over shares of SFT: which runs it has, and what it makes of them and of their logs."""

import io
import json

import pytest
from PIL import Image

from kd_lab.study.mixing import ALPHAS, MIXING, mixing_study
from kd_lab.study.schedule import Schedule
from kd_lab.study.sweep import METRICS

SEEDS = 3


@pytest.fixture
def results(tmp_path):
    """Reverse KL alone learns from random weights with the first seed only."""
    for task in mixing_study(tmp_path, SEEDS):
        if not task.name.startswith("evaluate"):
            continue
        name = task.result.parent.name
        metrics = {metric: {"mean": 0.9} for metric in METRICS}
        if name.startswith("random_token_rkl_1-") and not name.endswith("-1"):
            metrics["precision"]["mean"] = 0.1
        log = [
            {"step": 10, "divergence": 2.0, "grad_norm": 1.0},
            {"step": 20, "divergence": 3.0, "grad_norm": 6.0 if "fkl" in name else 1.0},
            {"step": 30, "divergence": 1.0, "grad_norm": 2.0},
            {"step": 30, "train_runtime": 1.0},
        ]
        task.result.parent.mkdir()
        (task.result.parent / "metrics.jsonl").write_text(
            "".join(f"{json.dumps(x)}\n" for x in log)
        )
        evaluation = {"metrics": metrics, "speed": {"student": {"parameters": 9}}, "test_set": {}}
        task.result.write_text(json.dumps(evaluation))
    return MIXING.results(tmp_path, SEEDS)


def test_the_random_control_is_the_start(tmp_path):
    tasks = mixing_study(tmp_path, SEEDS)
    schedule = Schedule(tmp_path, tasks)
    trained = [task for task in tasks if task.name.startswith("train")]
    assert len(trained) == 1 + SEEDS * (2 + 2 * 2 * len(ALPHAS))
    assert "train random_sft-2" in schedule.tasks["train start_token_rkl_0.5-2"].after
    mixed = schedule.tasks["train random_token_rkl_0.2-2"].words
    control = schedule.tasks["train random_sft-2"].words
    extra = [word for word in mixed if word not in control]
    assert extra == [
        "--teacher_model_name_or_path", str(tmp_path / "teacher"), "--alpha", "0.2",
        "--divergence", "reverse_kl", str(tmp_path / "random_token_rkl_0.2-2"),
    ]  # fmt: skip


def test_who_learnt_and_how_far_seeds_lie_apart(results):
    alone, *mixed = results["starts"]["random"]["mixes"]
    assert alone["learnt"] == {"token_fkl": 3, "token_rkl": 1}
    assert all(mix["learnt"] == {"token_fkl": 3, "token_rkl": 3} for mix in mixed)
    # Of 0.9, 0.1 and 0.1: sqrt((2/3)·0.8² / 2).
    assert alone["spread"]["token_rkl"]["precision"] == pytest.approx(0.8 / 3**0.5)
    assert alone["spread"]["token_fkl"]["precision"] == pytest.approx(0)
    gained = mixed[0]["changes"]["token_rkl"]["precision"]
    assert sorted(gained["values"]) == pytest.approx([0, 0.8, 0.8])
    assert gained["above_zero"] == 2
    assert json.loads(json.dumps(results)) == results


def test_what_the_log_says(results):
    methods = results["starts"]["start"]["mixes"][0]["methods"]
    assert methods["token_rkl"]["divergence_rise"]["values"] == [1.5] * SEEDS
    assert methods["token_fkl"]["gradient_peak"]["values"] == [3.0] * SEEDS  # 6 over the median 2
    assert methods["token_rkl"]["gradient_peak"]["values"] == [2.0] * SEEDS


def test_findings_and_picture(results):
    sentences = MIXING.findings(results)
    assert any("reverse KL 1, 3, 3, 3" in sentence for sentence in sentences)
    picture = Image.open(io.BytesIO(MIXING.draw(results))).convert("RGB")
    colours = {colour for _, colour in picture.getcolors(2**24)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours
