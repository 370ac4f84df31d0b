"""``make gpu`` where there is no GPU: the same code in small, its list, verdicts and exit code."""

import dataclasses
import functools
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch

import benchmarks.gpu.__main__ as command
from benchmarks.gpu.checks import BY_NAME, CHECKS, MOST_MINUTES, Check, groups
from benchmarks.gpu.commands import in_a_process
from benchmarks.gpu.figure import FAILED, MEASURED, NEEDS_GPU, PASSED, Figure, verdict_of
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.models import STUDENT, TEACHER, qwen
from benchmarks.gpu.page import PAGE, RESULTS, UNMEASURED, page, read_results
from benchmarks.gpu.worker import measure
from kd_lab.model_shapes import model_shape
from tests.helpers.toy_pair import TOKENIZER

ROOT = Path(__file__).parents[2]
# What they run has tests of its own: tests/kd_lab/test_launch.py, and teacher/ there.
TOO_LONG = ("launchers", "cache")
BY_A_CPU = [c.name for c in CHECKS if c.on_a_cpu and c.name not in TOO_LONG]
SPEEDS = {"roofline", "loss_speed", "shares", "memory", "writing"}  # no number has a range here


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_A_CPU)
def test_a_check_runs_on_a_cpu(name, capfd, monkeypatch):
    if name == "compiled_decode":  # its own test, in rollout/, compiles C++ as this would
        traced = functools.partial(torch.compile, backend="eager")
        monkeypatch.setattr("kd_lab.rollout.compiled_decode.torch.compile", traced)
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
    by_group = [max(check.minutes for check in group) for group in groups(CHECKS, "cuda")]
    assert sum(by_group) <= MOST_MINUTES
    files = {path.stem for path in folder.glob("*.py")} - BY_NAME.keys()
    said = (folder / "__init__.py").read_text()
    assert all(f"{name}.py" in said for name in files - {"__init__"})


def test_the_page_is_that_of_the_list():
    """make gpu DEVICE=cpu writes it anew."""
    assert (ROOT / PAGE).read_text() == page(read_results(ROOT / RESULTS))
    assert str(PAGE) in (ROOT / "README.md").read_text()


def test_the_page_after_a_run():
    def kept(figure):
        return {**dataclasses.asdict(figure), "verdict": figure.verdict}

    found = {
        "verdict": PASSED,
        "figures": [kept(Figure("error", 0.5, low=0)), kept(Figure("speed", 3.0))],
        "gpus": [{"name": "NVIDIA H100 80GB HBM3"}],
        "versions": {"libraries": {"torch": "2.13.0"}, "git_commit": "0123456789"},
    }
    text = page({check.name: found for check in CHECKS})
    assert "Measured on NVIDIA H100 80GB HBM3 with torch 2.13.0, at commit 0123456: [" in text
    assert text.count("| passed, 1 of 1 |") == len(CHECKS)
    assert UNMEASURED not in text
    assert "Outside the ranges" not in text
    slow = kept(Figure("time", 2.0, "us", high=1.0))
    other = {**found, "gpus": [{"name": "NVIDIA L4"}], "figures": [slow]}
    text = page({"loss": found, "kernels": other})
    assert "; NVIDIA L4 with" in text
    assert "- `kernels`: time: 2 us (at most 1)\n" in text
    assert text.count(UNMEASURED) == len(CHECKS) - 2


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
    checks = json.loads((tmp_path / "gpu.json").read_text())
    assert [*checks] == ["preflight", "kernels"]  # the chosen ones alone
    assert checks["preflight"]["verdict"] == NEEDS_GPU
    assert checks["kernels"]["gpus"] == []
    assert checks["kernels"]["versions"]["libraries"]["torch"]
    assert {figure["verdict"] for figure in checks["kernels"]["figures"]} == {PASSED, NEEDS_GPU}


def test_a_check_keeps_what_others_came_to(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "ON_CPU", tmp_path / "gpu.json")
    monkeypatch.setattr(command, "PAGE", tmp_path / "GPU.md")
    for name, value in (("shares", 1.0), ("loss", 2.0), ("shares", 3.0)):
        command.keep([command.Result(BY_NAME[name], [Figure("", value)], 1)], "cpu", {})
    checks = json.loads((tmp_path / "gpu.json").read_text())
    values = {name: [f["value"] for f in found["figures"]] for name, found in checks.items()}
    assert list(values.items()) == [("loss", [2.0]), ("shares", [3.0])]


def test_only_a_gpu_runs_checks_side_by_side_and_no_speed_is_among_them():
    assert list(groups(CHECKS, "cpu")) == [[check] for check in CHECKS]
    found = [[check.name for check in group] for group in groups(CHECKS, "cuda")]
    assert [names for names in found if len(names) > 1] == [
        ["loss", "invariance", "kernels", "runs", "host_reads", "cache", "launchers",
         "evaluation"]
    ]  # fmt: skip
    assert sorted(name for names in found for name in names) == sorted(BY_NAME)
    assert ["preflight"] in found
    assert ["memory"] in found


def test_a_failure_is_the_exit_code(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "ON_CPU", tmp_path / "gpu.json")
    monkeypatch.setattr(command, "PAGE", tmp_path / "GPU.md")
    off = Figure("error", 2.0, high=1.0)
    monkeypatch.setattr(
        command, "run_checks", lambda checks, device: [command.Result(c, [off], 1) for c in checks]
    )
    with pytest.raises(SystemExit) as ended:
        command.main(["--device", "cpu", "--only", "loss"])
    assert ended.value.code == 1
    assert json.loads((tmp_path / "gpu.json").read_text())["loss"]["verdict"] == FAILED


def test_a_process_that_fails_or_does_not_end_is_an_error():
    failing = command.Process([sys.executable, "-c", "1 / 0"])
    assert failing.ended(60).endswith("division by zero")
    waiting = command.Process([sys.executable, "-c", "import time; time.sleep(60)"])
    assert waiting.ended(0.3) == "stopped after 0 s, its limit"
    assert waiting.process.returncode
    assert (
        command.Result(Check("", 1, "", ""), [Figure("", 1.0, high=1)], 1, "no").verdict == FAILED
    )


def test_checks_that_are_left_early_are_stopped(monkeypatch):
    """Ctrl-C, or an error, while others still run."""
    started = []
    words = [sys.executable, "-c", "import time; time.sleep(60)"]

    class Waiting(command.Running):
        def __init__(self, check, device):
            super().__init__(check, device)
            self.process.stop()
            self.process = command.Process(words)
            started.append(self.process.process)

    monkeypatch.setattr(command, "Running", Waiting)
    monkeypatch.setattr(Waiting, "result", lambda self: self.check)
    results = command.run_checks([BY_NAME["loss"], BY_NAME["runs"]], "cpu")
    next(results)
    assert [process.poll() for process in started] == [None, None]
    results.close()
    assert all(process.returncode for process in started)


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


@pytest.mark.parametrize(("version", "name"), [("2.11.0", "7B"), ("2.13.0", "7B under autocast")])
def test_the_page_says_what_an_older_run_lacked_and_only_then(version, name):
    figure = {"name": name, "value": 1, "unit": "x", "low": None, "high": None, "verdict": PASSED}
    versions = {"libraries": {"torch": version}, "git_commit": "0" * 40}
    check = {"figures": [figure], "verdict": PASSED, "gpus": [{"name": "H200"}]}
    text = page({"compiled_decode": {**check, "versions": versions}})
    for said in "older torch than the project", "under autocast and at 7B was not timed":
        assert (said in text) == (version == "2.11.0")
