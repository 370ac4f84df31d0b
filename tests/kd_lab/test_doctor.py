"""``kd-lab doctor`` and what it asks nvidia-smi, here a script of the name on PATH."""

import os
import sys

import pytest

from kd_lab import doctor
from kd_lab.cli import main
from kd_lab.machine.nvidia import Gpu, TorchBuild, nvidia_gpus, torch_build, why_unused

A100 = "NVIDIA A100-SXM4-80GB, 81920, 570.86.10"
CUDA_13 = TorchBuild("2.13.0", "13.0")


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A function that makes nvidia-smi say something, and exit with a code."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "200")

    def says(text, code=0):
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        script.chmod(0o755)

    return says


def told(capsys):
    assert main(["doctor"]) == 0
    return capsys.readouterr().out


def test_gpus_as_nvidia_smi_lists_them(nvidia_smi):
    nvidia_smi(f"{A100}\nNVIDIA GB10, [N/A], 580.95.05")
    first, second = nvidia_gpus()
    assert first == Gpu("NVIDIA A100-SXM4-80GB", pytest.approx(85.9, abs=0.01), "570.86.10")
    assert second == Gpu("NVIDIA GB10", 0, "580.95.05")
    nvidia_smi("No devices were found", 6)
    assert nvidia_gpus() == []


@pytest.mark.parametrize(
    ("driver", "torch", "reason"),
    [
        ("580.65.06", CUDA_13, ""),
        ("595.10", CUDA_13, ""),
        ("570.86.10", CUDA_13, "the driver 570.86.10 is too old"),
        ("570.86.10", TorchBuild("2.13.0+cu128", "12.8"), ""),
        ("470.10", TorchBuild("2.13.0+cu128", "12.8"), "needs driver branch 525"),
        ("580.65.06", TorchBuild("2.13.0+cpu", None), "force-reinstall torch==2.13.0"),
        ("580.65.06", None, "torch is not installed"),
    ],
)
def test_why_torch_cannot_use_a_gpu(driver, torch, reason):
    why = why_unused([Gpu("A100", 80, driver)], torch)
    assert reason in why
    assert bool(why) == bool(reason)


def test_the_build_of_torch_as_torch_itself_says():
    import torch

    assert torch_build() == TorchBuild(torch.__version__, torch.version.cuda)


def test_the_screen_names_the_gpu_its_driver_and_what_can_be_run(nvidia_smi, capsys, tmp_path):
    nvidia_smi(f"{A100}\n{A100}\n{A100}")
    shown = told(capsys)
    assert "3 x NVIDIA A100-SXM4-80GB, 86 GB, driver 570.86.10" in shown
    assert why_unused(nvidia_gpus(), torch_build()) in shown
    for command in "make demo", "smol/token_fkl", "qwen2.5/token_fkl":
        assert command in shown


def test_a_driver_that_fails_is_told_in_its_own_words(nvidia_smi, capsys):
    nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the driver.", 9)
    assert "couldn't communicate with the driver" in told(capsys)


def test_it_needs_the_core_only(monkeypatch, capsys):
    for name in (*doctor.PACKAGES, "psutil", "yaml", "deepspeed"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("COLUMNS", "200")
    shown = told(capsys)
    assert f"no: {', '.join(doctor.PACKAGES)} not installed: make demo" in " ".join(shown.split())


def test_our_own_folders(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("KD_LAB_CACHE", str(tmp_path / "rows"))
    monkeypatch.chdir(tmp_path)
    for folder in "models--Qwen--Qwen2.5-7B", "runs/one", "runs/two", ".venv-vllm/bin":
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".venv-vllm/lib/python3.12/site-packages/vllm-0.32.0.dist-info").mkdir(parents=True)
    shown = told(capsys)
    assert f"{tmp_path}: 1 models" in shown
    assert f"{tmp_path / 'runs'}: 2 folders" in shown
    assert f"{tmp_path / 'rows'}: not there yet" in shown
    assert "vllm 0.32.0, in .venv-vllm" in shown


@pytest.mark.slow  # imports transformers and TRL
def test_what_fits_is_what_plan_counts(capsys):
    fine_tuned, distilled, teacher = doctor.on_gpus([Gpu("A100", 80, "580.65.06")], "")
    assert "63 GB a GPU" in distilled.what  # the README's figure of kd-lab plan
    assert not fine_tuned.obstacle
    assert not distilled.obstacle
    assert teacher.obstacle.startswith("80 GB are there")
    assert main(["plan", "--config", "qwen2.5/ultra_7b"]) == 0
    assert "does not fit" in capsys.readouterr().out


def test_it_takes_no_options(capsys):
    assert main(["doctor", "--gpus", "2"]) == 2
    assert "doctor takes no options, not '--gpus'" in capsys.readouterr().err
