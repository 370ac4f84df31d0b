"""A teacher's cache that is killed and gone on with, and training from it as from the teacher."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.gpu.commands import TEACHER, environment, kd_lab, tiny_folder
from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine
from kd_lab.runs.run_files import read_metrics

ROWS, ROWS_ON_CPU = 6400, 64
SHARDS = 16
SIGNALS = ("hidden", "topk")
SAME = 1e-3  # hidden states are stored in bfloat16
STEPS, BATCH = 4, 16


def measure(machine: Machine) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        root = tiny_folder(folder)

        def of_signal(signal: str) -> list[Figure]:
            return list(_of_signal(machine, root, signal))

        # In this process one after the other: a command changes its folder.
        with ThreadPoolExecutor(len(SIGNALS) if machine.is_gpu else 1) as pool:
            for figures in pool.map(of_signal, SIGNALS):
                yield from figures


def _of_signal(machine: Machine, root: Path, signal: str) -> Iterator[Figure]:
    whole, killed = f"runs/{signal}", f"runs/{signal}-killed"
    kd_lab(root, _words(machine, signal, whole), machine.device)
    if signal == "hidden":
        written = _kill_at_the_first_shard(root, _words(machine, signal, killed), machine)
        yield Figure("shards of a cache when it was killed", written, low=1, high=SHARDS - 1)
        kd_lab(root, _words(machine, signal, killed), machine.device)
        differing = _differing(root, whole, killed)
        yield Figure("shards that differ after it went on", differing, low=0, high=0)
    live, stored = (
        _trained(root, machine, f"runs/{signal}-{kind}", cache)
        for kind, cache in (("live", ""), ("stored", whole))
    )
    gap = max(abs(a / b - 1) for a, b in zip(stored, live, strict=True))
    is_whole = signal == "hidden"
    yield Figure(
        f"divergence, trained from {signal} against live", gap, "relative",
        high=SAME if is_whole else None, note="" if is_whole else "a lower bound of it",
    )  # fmt: skip


def _words(machine: Machine, signal: str, out: str) -> list[str]:
    rows = ROWS if machine.is_gpu else ROWS_ON_CPU
    return [
        "cache", "--teacher_model_name_or_path", TEACHER, "--dataset", "toy",
        "--num_conversations", str(rows), "--teacher_signal", signal,
        "--rows_per_shard", str(rows // SHARDS), "--output_dir", out,
    ]  # fmt: skip


def _kill_at_the_first_shard(root: Path, words: list[str], machine: Machine) -> int:
    """Shards that were there when the process was killed."""
    out = root / words[-1]
    process = subprocess.Popen(
        [sys.executable, "-m", "kd_lab", *words], cwd=root, env=environment(machine.device),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not _shards(out):
        time.sleep(0.002)
    process.kill()
    process.wait()
    return len(_shards(out))


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.safetensors"))


def _differing(root: Path, whole: str, other: str) -> int:
    pairs = [_shards(root / name) for name in (whole, other)]
    assert [path.name for path in pairs[0]] == [path.name for path in pairs[1]]
    return sum(a.read_bytes() != b.read_bytes() for a, b in zip(*pairs, strict=True))


def _trained(root: Path, machine: Machine, out: str, cache: str) -> list[float]:
    """The divergence of a few steps, from the cache or from the model."""
    words = [
        "train", "--config", "tiny/token_fkl", "--output_dir", out, "--max_steps", str(STEPS),
        "--logging_steps", "1", "--per_device_train_batch_size", str(BATCH),
        "--num_conversations", str(ROWS if machine.is_gpu else ROWS_ON_CPU),
        "--train_sampling_strategy", "sequential",
    ]  # fmt: skip
    kd_lab(root, words + (["--teacher_cache", cache] if cache else []), machine.device)
    return [line["divergence"] for line in read_metrics(root / out) if "divergence" in line]
