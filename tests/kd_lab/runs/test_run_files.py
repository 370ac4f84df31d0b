"""What a run's files hold."""

import pytest
import yaml

from kd_lab.cli import parse
from kd_lab.runs.run_files import evaluation_settings, read_metrics, resolved_config


def test_secrets_stay_out_of_the_config(tmp_path):
    options = {"output_dir": tmp_path, "model_shape": "{hidden_size: 32}", "use_cpu": "true"}
    options |= {"hub_token": "hf_secret"}
    arguments = parse("train", [f"--{key}={value}" for key, value in options.items()])
    assert arguments[-1].hub_token == "hf_secret"
    config = resolved_config(*arguments)
    assert "hf_secret" not in yaml.safe_dump(config)


def test_a_line_of_metrics_that_was_cut_off_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2')
    assert read_metrics(tmp_path) == [{"step": 1}]
    (tmp_path / "metrics.jsonl").write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:1: not JSON"):
        read_metrics(tmp_path)


def test_an_evaluation_of_earlier_versions_says_its_temperature_by_another_name():
    before = {"settings": {"temperature": 0.5, "top_p": 1.0}}
    assert evaluation_settings(before) == {"sampling_temperature": 0.5, "top_p": 1.0}
    now = {"settings": {"sampling_temperature": 0.5, "top_p": 1.0}}
    assert evaluation_settings(now) == now["settings"]
    assert before["settings"]["temperature"] == 0.5  # left as it was read
