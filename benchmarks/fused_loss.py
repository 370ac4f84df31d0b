"""The fused loss against its floor and its peers, on the same tensors in one process.

    python benchmarks/fused_loss.py                      # the table, and the figure in assets/
    python benchmarks/fused_loss.py --dtype bfloat16 --no-figure
    python benchmarks/fused_loss.py --tokens 256 --vocab 32000 --repeats 5

contenders.py says what each of them is: the four bare products (floor), kd_lab's loss (ours), those
of Liger and TRL, and whole logits (dense). Floor and Liger run at the chunk size fastest for them.

Every contender runs forward and backward to the student's hidden states and head. Runs are
interleaved, and medians are compared, since machines drift: a ratio has its range over the repeats,
and differs more between processors. Peak memory is the process's high-water mark, reset before each
run, above what was there before and without the two gradients, which are the same for all. Liger's
LigerFusedLinearKLDivLoss needs Triton and so a GPU: ``make gpu ONLY=loss_speed`` meets it.
"""

import argparse
import ctypes
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.contenders import (
    STUDENT_WIDTH,
    TEACHER_WIDTH,
    Inputs,
    dense,
    floor,
    kl_div,
    liger,
    ours,
    trl_gkd,
    trl_kernel,
)
from kd_lab.divergences import DIVERGENCES, forward_kl
from kd_lab.files import whole_file, write_text
from kd_lab.loss import CHUNK_SIZE
from toy.script import run_script

CONTENDERS = ("floor", "ours", "liger", "trl_kernel", "trl_gkd", "dense", "dense_kl_div")
CHUNKS = (64, 128, 256, 512, 1024)
MIB = 2**20
Run = Callable[[], None]


def measure(data: Inputs, run: Run) -> tuple[float, float]:
    """Seconds, and the peak MiB above the inputs and the gradients."""
    data.clear()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what one run has freed would serve the next
    before = high_water_mark(reset=True)
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    return seconds, (high_water_mark() - before - data.gradient_bytes) / MIB


def high_water_mark(reset: bool = False) -> int:
    """Peak resident bytes of this process since the last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise ValueError("this system has no VmHWM in /proc/self/status; run it on Linux")


def processor() -> str:
    """Its name as Linux has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def fastest_chunk(data: Inputs, run: Callable[[Inputs, int], None], advance: Run) -> int:
    seconds = {}
    for chunk_size in CHUNKS:
        seconds[chunk_size] = measure(data, lambda size=chunk_size: run(data, size))[0]
        advance()
    return min(seconds, key=lambda size: seconds[size])


def check_that_all_compute_the_same(vocab: int) -> None:
    """Gradients to the head of the contenders that have both parts, before any is timed."""
    data = Inputs(8, min(vocab, 1000), torch.float32)
    gradients = []
    for run in (ours, lambda data: liger(data, 4), dense):
        data.clear()
        run(data)
        gradients.append(data.student_head.grad)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-4, atol=1e-7)


def compare(tokens: int, vocab: int, dtype: torch.dtype, repeats: int) -> dict:
    """Every contender ``repeats`` times in turn, and our other divergences."""
    check_that_all_compute_the_same(vocab)
    data = Inputs(tokens, vocab, dtype)
    others = [name for name in DIVERGENCES if name != forward_kl.__name__]
    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:
        total = 2 * len(CHUNKS) + repeats * (len(CONTENDERS) + len(others))
        task = progress.add_task("fused loss", total=total)
        advance = lambda: progress.advance(task)  # noqa: E731
        floor_chunk = fastest_chunk(data, floor, advance)
        liger_chunk = fastest_chunk(data, liger, advance)
        contenders: dict[str, Run] = {
            "floor": lambda: floor(data, floor_chunk),
            "ours": lambda: ours(data),
            "liger": lambda: liger(data, liger_chunk),
            "trl_kernel": lambda: trl_kernel(data),
            "trl_gkd": lambda: trl_gkd(data),
            "dense": lambda: dense(data),
            "dense_kl_div": lambda: dense(data, kl_div),
        }
        for name in others:
            contenders[name] = lambda name=name: ours(data, name)
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(repeats):
            for name, run in contenders.items():
                measured[name].append(measure(data, run))
                advance()
    seconds = {name: [run[0] for run in runs] for name, runs in measured.items()}
    ratios = {
        name: [mine / other for mine, other in zip(seconds["ours"], seconds[name], strict=True)]
        for name in CONTENDERS
        if name != "ours"
    }
    return {
        "settings": {
            "tokens": tokens,
            "vocab": vocab,
            "widths": [STUDENT_WIDTH, TEACHER_WIDTH],
            "dtype": str(dtype).removeprefix("torch."),
            "repeats": repeats,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "processor": processor(),
            "chunk_sizes": {"ours": CHUNK_SIZE, "floor": floor_chunk, "liger": liger_chunk},
        },
        "time": {name: statistics.median(seconds[name]) for name in CONTENDERS},
        "peak_mib": {
            name: statistics.median(run[1] for run in measured[name]) for name in CONTENDERS
        },
        "ours_over": {name: statistics.median(found) for name, found in ratios.items()},
        "ours_over_range": {name: [min(found), max(found)] for name, found in ratios.items()},
        "over_floor": {
            name: statistics.median(
                run / least for run, least in zip(seconds[name], seconds["floor"], strict=True)
            )
            for name in (*CONTENDERS, *others)
        },
    }


def memory_by_tokens(vocab: int, dtype: torch.dtype, liger_chunk: int) -> dict:
    """Peak MiB of each contender at several numbers of tokens; whole logits only up to 2,048."""
    contenders: dict[str, Callable[[Inputs], None]] = {
        "ours": ours,
        "liger": lambda data: liger(data, liger_chunk),
        "trl_kernel": trl_kernel,
        "dense": dense,
    }
    peaks: dict[str, dict[int, float]] = {name: {} for name in contenders}
    for tokens in (256, 512, 1024, 2048, 4096):
        data = Inputs(tokens, vocab, dtype)
        for name, run in contenders.items():
            if tokens <= 1024 or name == "ours" or (name != "dense" and tokens == 2048):
                peaks[name][tokens] = measure(data, lambda run=run, data=data: run(data))[1]
    return peaks


def draw_memory(peaks: dict, vocab: int, path: Path) -> None:
    import matplotlib.pyplot as plt

    plt.style.use("kd_lab.figures")
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    labels = {
        "ours": "kd_lab fused loss",
        "dense": "whole logits, autograd",
        "liger": "Liger fused JSD",
        "trl_kernel": "TRL chunked divergence",
    }
    for name, label in labels.items():
        tokens, mib = zip(*sorted(peaks[name].items()), strict=True)
        width = 3.5 if name == "ours" else None
        axes.plot(tokens, [m / 1024 for m in mib], marker="o", label=label, linewidth=width)
    axes.set(xlabel="tokens in the batch", ylabel="peak memory, GiB", ylim=(0, None), xscale="log")
    axes.set_xticks([256, 512, 1024, 2048, 4096], labels=["256", "512", "1,024", "2,048", "4,096"])
    axes.minorticks_off()
    axes.set_title(
        f"Memory of a distillation loss at {vocab:,} words\n(above inputs and gradients)"
    )
    figure.legend(loc="outside lower center", ncols=2)
    with whole_file(path) as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)


def show(result: dict) -> None:
    settings = result["settings"]
    table = Table(
        title=f"{settings['tokens']} tokens, {settings['vocab']:,} words, {settings['dtype']}, "
        f"{settings['threads']} threads of {settings['processor']}, {settings['repeats']} repeats"
    )
    for column in ("forward KL, alpha 0.5", "seconds", "x floor", "ours / it", "MiB", "ours / it"):
        table.add_column(column, justify="left" if column.startswith("forward") else "right")
    for name, seconds in result["time"].items():
        peak, ratios = result["peak_mib"][name], result["ours_over_range"].get(name)
        table.add_row(
            name,
            f"{seconds:.2f}",
            f"{result['over_floor'][name]:.2f}",
            "–".join(f"{ratio:.2f}" for ratio in ratios) if ratios else "",
            f"{peak:,.0f}",
            f"{result['peak_mib']['ours'] / peak:.2f}" if ratios else "",
        )
    console = Console()
    console.print(table)
    others = {name: x for name, x in result["over_floor"].items() if name not in CONTENDERS}
    console.print("ours, x floor: " + ", ".join(f"{name} {x:.2f}" for name, x in others.items()))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("assets"), help="folder of the figure")
    parser.add_argument("--no-figure", action="store_true", help="the table only")
    parser.add_argument("--json", type=Path, metavar="PATH")
    arguments = parser.parse_args(argv)
    if min(arguments.tokens, arguments.vocab, arguments.repeats) < 1:
        raise ValueError("--tokens, --vocab and --repeats must be at least 1")
    dtype = getattr(torch, arguments.dtype)
    result = compare(arguments.tokens, arguments.vocab, dtype, arguments.repeats)
    show(result)
    if not arguments.no_figure:
        liger_chunk = result["settings"]["chunk_sizes"]["liger"]
        peaks = memory_by_tokens(arguments.vocab, dtype, liger_chunk)
        result["peak_mib_by_tokens"] = peaks
        path = arguments.out / "fused_loss_memory.png"
        draw_memory(peaks, arguments.vocab, path)
        print(f"wrote {path}")
    if arguments.json:
        write_text(arguments.json, json.dumps(result, indent=1) + "\n")
        print(f"wrote {arguments.json}")


if __name__ == "__main__":
    run_script(main)
