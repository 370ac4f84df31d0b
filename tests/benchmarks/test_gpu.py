"""``make gpu`` where there is no GPU: the same code in small, its list, verdicts and exit code."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest

import benchmarks.gpu.__main__ as command
from benchmarks.gpu.checks import BY_NAME, CHECKS, MOST_MINUTES, Check
from benchmarks.gpu.commands import in_a_process
from benchmarks.gpu.figure import FAILED, MEASURED, NEEDS_GPU, PASSED, Figure, verdict_of
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.models import STUDENT, TEACHER, qwen
from benchmarks.gpu.page import PAGE, page, read_results
from benchmarks.gpu.worker import measure
from kd_lab.model_shapes import model_shape
from tests.helpers.toy_pair import TOKENIZER

ROOT = Path(__file__).parents[2]
# What they run has tests of its own: tests/kd_lab/test_launch.py, teacher/ and evaluation/ there.
TOO_LONG = ("launchers", "cache", "evaluation")
BY_A_CPU = [c.name for c in CHECKS if c.on_a_cpu and c.name not in TOO_LONG]
SPEEDS = {"roofline", "loss_speed", "shares", "memory", "writing"}  # no number has a range here


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_A_CPU)
def test_a_check_runs_on_a_cpu(name, capfd):
    figures = list(measure(BY_NAME[name], "cpu"))
    failed = [figure for figure in figures if figure.verdict == FAILED]
    assert not failed
    assert verdict_of(figures) == (MEASURED if name in SPEEDS else PASSED)
    assert all(figure.value is None or math.isfinite(figure.value) for figure in figures)
    assert len({figure.name for figure in figures}) == len(figures)


def test_every_check_has_a_file_and_all_are_done_in_time():
    folder = ROOT / "benchmarks" / "gpu"
    for check in CHECKS:
        assert "def measure(machine: Machine)" in (folder / f"{check.name}.py").read_text()
    assert sum(check.minutes for check in CHECKS) <= MOST_MINUTES
    files = {path.stem for path in folder.glob("*.py")} - BY_NAME.keys()
    said = (folder / "__init__.py").read_text()
    assert all(f"{name}.py" in said for name in files - {"__init__"})


def test_the_page_is_that_of_the_list():
    """make gpu DEVICE=cpu writes it anew."""
    assert (ROOT / PAGE).read_text() == page(read_results(ROOT))
    assert str(PAGE) in (ROOT / "README.md").read_text()


def test_the_page_after_a_run():
    checks = {
        check.name: {"verdict": PASSED, "figures": [{"verdict": PASSED}, {"verdict": MEASURED}]}
        for check in CHECKS
    }
    results = {
        "gpus": [{"name": "NVIDIA H100 80GB HBM3"}],
        "versions": {"git_commit": "0123456789"},
        "checks": checks,
    }
    text = page(results)
    assert "Measured on NVIDIA H100 80GB HBM3, at commit 0123456" in text
    assert text.count("passed, 1 of 2 figures |") == len(CHECKS)
    assert "unmeasured" not in text


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (Figure("", 1.0, low=0, high=1), PASSED),
        (Figure("", 1.1, low=0, high=1), FAILED),
        (Figure("", -0.1, low=0, high=1), FAILED),
        (Figure("", math.nan, high=1), FAILED),
        (Figure("", 5.0), MEASURED),
        (Figure("", None, low=0, high=1), NEEDS_GPU),
    ],
)
def test_verdicts(figure, verdict):
    assert figure.verdict == verdict


def test_a_check_without_a_number_has_not_passed():
    waiting, found = Figure("", None, high=1), Figure("", 1.0)
    assert verdict_of([waiting]) == verdict_of([]) == NEEDS_GPU
    assert verdict_of([waiting, found]) == MEASURED
    assert verdict_of([waiting, found, Figure("", 0.0, high=1)]) == PASSED
    assert verdict_of([Figure("", 0.0, high=1), Figure("", 2.0, high=1)]) == FAILED


def test_a_speed_is_expected_of_the_cards_that_it_was_computed_for():
    ranges = {"H100": (2.4, 3.1)}
    assert Machine("cuda", "NVIDIA H100 80GB HBM3").expected(ranges) == {"low": 2.4, "high": 3.1}
    assert Machine("cuda", "NVIDIA L4").expected(ranges) == {}
    assert Machine("cpu", "CPU").expected(ranges) == {}


@pytest.mark.parametrize("size", [STUDENT, TEACHER])
def test_the_models_have_the_true_shapes(size):
    model = qwen(Machine("meta", ""), size, None, TOKENIZER)
    count = sum(weight.numel() for weight in model.parameters())
    assert count == model_shape(f"Qwen/Qwen2.5-{size}-Instruct").parameters


@pytest.mark.slow
def test_the_command_writes_a_file_and_lists_what_needs_a_gpu(monkeypatch, tmp_path, capsys):
    """Each check in a process of its own."""
    monkeypatch.setattr(command, "ON_CPU", tmp_path / "gpu.json")
    monkeypatch.setattr(command, "PAGE", tmp_path / "GPU.md")
    with pytest.raises(SystemExit) as ended:
        command.main(["--device", "cpu", "--only", "preflight", "kernels"])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert "1 needs a GPU, 1 passed" in printed.out
    assert "forward_kl: kernels against the plain passes" in printed.err
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["device"] == "cpu"
    assert written["versions"]["libraries"]["torch"]
    checks = written["checks"]  # of the chosen ones alone
    assert [*checks] == ["preflight", "kernels"]
    assert checks["preflight"] == {
        "shows": BY_NAME["preflight"].shows, "verdict": NEEDS_GPU, "seconds": 0.0, "figures": [],
    }  # fmt: skip
    assert {figure["verdict"] for figure in checks["kernels"]["figures"]} == {PASSED, NEEDS_GPU}


def test_a_failure_is_the_exit_code(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "ON_CPU", tmp_path / "gpu.json")
    monkeypatch.setattr(command, "PAGE", tmp_path / "GPU.md")
    off = Figure("error", 2.0, high=1.0)
    monkeypatch.setattr(command, "run_check", lambda check, device: command.Result(check, [off], 1))
    with pytest.raises(SystemExit) as ended:
        command.main(["--device", "cpu", "--only", "loss"])
    assert ended.value.code == 1
    assert json.loads((tmp_path / "gpu.json").read_text())["checks"]["loss"]["verdict"] == FAILED


def test_a_process_that_fails_or_does_not_end_is_an_error():
    assert command.ended_with([sys.executable, "-c", "1 / 0"], 60).endswith("division by zero")
    waiting = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert command.ended_with(waiting, 0.3) == "stopped after 0 s, its limit"
    assert (
        command.Result(Check("", 1, "", ""), [Figure("", 1.0, high=1)], 1, "no").verdict == FAILED
    )


def test_a_command_that_fails_says_why(tmp_path):
    words = [sys.executable, "-c", "import os; assert os.environ['CUDA_VISIBLE_DEVICES'] == ''"]
    in_a_process(tmp_path, words, "cpu")
    words[-1] = "import sys; sys.exit('no such thing')"
    with pytest.raises(ValueError, match=r"failed:\nno such thing"):
        in_a_process(tmp_path, words, "cpu")


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be a GPU")
def test_without_a_gpu_it_names_the_remedy():
    with pytest.raises(ValueError, match="no NVIDIA GPU; without a GPU: make gpu DEVICE=cpu"):
        command.main([])
