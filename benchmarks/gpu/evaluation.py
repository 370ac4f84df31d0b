"""``kd-lab evaluate`` on the GPU and on the CPU: the same answers, the same measurements."""

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.commands import STUDENT, TEACHER, kd_lab, tiny_folder
from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine
from kd_lab.runs.run_files import RESULT

PROMPTS, PROMPTS_ON_CPU = 200, 8
SAME = 1e-4  # of the mean, or of 1
GIVEN = (  # over given texts; all others are over drawn answers, or count likeliest tokens
    "forward_kl", "reverse_kl", "jensen_shannon", "total_variation", "student_entropy",
    "student_nll", "teacher_entropy", "teacher_nll",
)  # fmt: skip
TURNED = 1e-2  # a rounding turns a draw now and then, and the rest of its answer is another


def measure(machine: Machine) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        root = tiny_folder(folder)
        expected = _means(machine, root, "cpu", "first")
        found = _means(machine, root, machine.device, "second")
        yield Figure("measurements", len(expected), low=len(found), high=len(found))
        gaps = {
            name: abs(found[name] - mean) / max(1, abs(mean)) for name, mean in expected.items()
        }
        most = max(gaps.values())
        yield Figure("a mean, twice on a CPU", None if machine.is_gpu else most, low=0, high=0)
        for which, high in ((set(GIVEN), SAME), (gaps.keys() - set(GIVEN), TURNED)):
            worst = max(which, key=gaps.__getitem__)
            kind = "given texts" if high == SAME else "drawn answers"
            gap = gaps[worst] if machine.is_gpu else None
            yield Figure(f"a mean over {kind}, GPU against CPU", gap, high=high, note=worst)


def _means(machine: Machine, root: Path, device: str, out: str) -> dict[str, float]:
    """All finite means of an evaluation but those of time."""
    prompts = PROMPTS if machine.is_gpu else PROMPTS_ON_CPU
    words = [
        "evaluate", "--model_name_or_path", STUDENT, "--teacher_model_name_or_path", TEACHER,
        "--dataset", "toy", "--num_test_conversations", str(prompts), "--max_new_tokens", "16",
        "--output_dir", f"runs/{out}",
    ]  # fmt: skip
    kd_lab(root, words, device)
    metrics = json.loads((root / "runs" / out / RESULT).read_text())["metrics"]
    means = {name: found["mean"] for name, found in metrics.items() if "mean" in found}
    return {name: mean for name, mean in means.items() if math.isfinite(mean)}
