"""Tiny recipes on a GPU as on a CPU, in other ways beside, and one that was stopped and resumed.

Beside float32: bfloat16 under autocast, and answers written by a compiled step.

Answers are drawn from numbers of their own (kd_lab/rollout/sampling.py), so that both devices write
the same ones until a rounding turns a draw. Then the runs are alike, and no longer the same.
"""

import math
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.gpu.commands import kd_lab, tiny_folder
from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine
from kd_lab.runs.run_files import COMPLETE, read_metrics

RECIPES = ("token_fkl", "seq_rkl", "minillm")
WRITTEN = ("seq_rkl", "minillm")  # of them, those whose student writes while it learns
COMPILED = "compiled answers"
ON_A_GPU = {"gpu": (), "bf16": ("--bf16", "true"), COMPILED: ("--compile_decode", "true")}
STEPS, STEPS_ON_CPU = 30, 4
ROWS, ROWS_ON_CPU = 64, 8
FIRST, WHOLE = 1e-4, {"token_fkl": 1e-3, "seq_rkl": 5e-2, "minillm": 5e-2}  # relative
ROUNDED = 0.1  # bfloat16 under autocast beside float32, over the whole run


def measure(machine: Machine) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        root = tiny_folder(folder)
        cases = [
            (recipe, kind)
            for recipe in RECIPES
            for kind in ("cpu", *(_kinds(recipe) if machine.is_gpu else ()))
        ]

        def run(case: tuple[str, str]) -> list[float]:
            recipe, kind = case
            device = "cpu" if kind == "cpu" else "cuda"
            out = f"runs/{recipe}-{kind}"
            kd_lab(root, [*_words(machine, recipe, out), *ON_A_GPU.get(kind, ())], device)
            return [line["divergence"] for line in read_metrics(root / out) if "divergence" in line]

        # In this process one after the other: a command changes its folder.
        with ThreadPoolExecutor(6 if machine.is_gpu else 1) as pool:
            found = dict(zip(cases, pool.map(run, cases), strict=True))
        for recipe in RECIPES:
            yield from _compared(recipe, found, machine)
        yield _resumed(machine, root)


def _kinds(recipe: str) -> list[str]:
    """The ways in which a recipe runs on a GPU."""
    return [kind for kind in ON_A_GPU if kind != COMPILED or recipe in WRITTEN]


def _words(machine: Machine, recipe: str, out: str) -> list[str]:
    steps, rows = (STEPS, ROWS) if machine.is_gpu else (STEPS_ON_CPU, ROWS_ON_CPU)
    return [
        "train", "--config", f"tiny/{recipe}", "--output_dir", out, "--max_steps", str(steps),
        "--logging_steps", "1", "--num_conversations", str(steps * rows),
        "--per_device_train_batch_size", str(rows),
    ]  # fmt: skip


def _compared(
    recipe: str, found: dict[tuple[str, str], list[float]], machine: Machine
) -> Iterator[Figure]:
    on_cpu = found[recipe, "cpu"]
    steps = STEPS if machine.is_gpu else STEPS_ON_CPU
    finite = sum(map(math.isfinite, on_cpu))
    yield Figure(f"{recipe}: finite steps on a CPU", finite, low=steps, high=steps)
    for kind in _kinds(recipe):
        for part in ("first step", "all steps") if kind == "gpu" else ("all steps",):
            label = f"{recipe}: divergence, {kind} against cpu, {part}"
            if not machine.is_gpu:
                yield Figure(label, None)
                continue
            pairs = list(zip(found[recipe, kind], on_cpu, strict=True))
            pairs = pairs[:1] if part == "first step" else pairs
            gap = max(abs(mine / other - 1) for mine, other in pairs)
            most = ROUNDED if kind == "bf16" else FIRST if len(pairs) == 1 else WHOLE[recipe]
            yield Figure(label, gap, "relative", high=most)


def _resumed(machine: Machine, root: Path) -> Figure:
    """Numbers of the student that differ where a run went on from its middle."""
    half = (STEPS if machine.is_gpu else STEPS_ON_CPU) // 2
    out = root / "runs/resumed"
    words = _words(machine, "token_fkl", "runs/resumed")
    words += ["--save_strategy", "steps", "--save_steps", str(half)]
    words += ["--attn_implementation", "eager"]  # a fused one's backward pass may differ each time
    kd_lab(root, words, machine.device)
    whole = load_file(out / "model.safetensors")
    shutil.rmtree(out / f"checkpoint-{2 * half}")
    for name in (COMPLETE, "model.safetensors"):
        (out / name).unlink()
    kd_lab(root, [*words, "--resume_from_checkpoint", "true"], machine.device)
    again = load_file(out / "model.safetensors")
    differing = sum(int((again[name] != weight).sum()) for name, weight in whole.items())
    assert any(torch.is_floating_point(weight) for weight in whole.values())
    return Figure("numbers that differ after a resumed run", differing, low=0, high=0)
