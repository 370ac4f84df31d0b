"""What the computed times stand on: memory's bandwidth, and the speed of the loss's products.

``benchmarks/traffic.py`` takes 693 TFLOP/s and 2.68 TB/s for an H100, 218 and 1.6 for an A100.
"""

from collections.abc import Callable, Iterator

import torch

from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.problem import sizes
from kd_lab.loss.products import ALIGNMENT, product, vocabulary_parts

COPIED, COPIED_ON_CPU = 4 * 10**9, 4 * 10**6  # bytes
MOST_FOR_ODD = 1.1
CHUNKS, CHUNKS_ON_CPU = (1024, 2048), (32,)
BANDWIDTH = {"H100": (2.4, 3.1), "H200": (3.4, 4.5), "A100-SXM4-80GB": (1.5, 1.9)}  # TB/s
FLOPS = {"H100": (450.0, 850.0), "H200": (450.0, 850.0), "A100": (170.0, 290.0)}  # TFLOP/s


def measure(machine: Machine) -> Iterator[Figure]:
    count = (COPIED if machine.is_gpu else COPIED_ON_CPU) // 4
    source = torch.ones(count, device=machine.device)
    target = torch.empty_like(source)
    seconds = machine.seconds(lambda: target.copy_(source), 10)
    moved = 2 * source.nbytes / seconds / 1e12
    yield Figure("a copy", moved, "TB/s", **machine.expected(BANDWIDTH))
    source = target = torch.empty(0)
    for chunk in CHUNKS if machine.is_gpu else CHUNKS_ON_CPU:
        yield from _products(machine, chunk)


def _products(machine: Machine, chunk: int) -> Iterator[Figure]:
    """The four of a chunk, as the loss calls them; 16-bit operands, sums of 32."""
    of = sizes(machine)
    odd, padded = of.vocabulary, -(-of.vocabulary // ALIGNMENT) * ALIGNMENT

    def narrow(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, device=machine.device, dtype=torch.bfloat16)

    def wide(rows: int, columns: int) -> torch.Tensor:
        return torch.zeros(rows, columns, device=machine.device)

    hidden, head = narrow(chunk, of.student_width), narrow(padded, of.student_width)
    teacher_hidden, teacher_head = narrow(chunk, of.teacher_width), narrow(padded, of.teacher_width)
    tile, gradient = wide(chunk, padded), narrow(chunk, padded)
    on_hidden, on_head = wide(chunk, of.student_width), wide(padded, of.student_width)
    # Each takes a part of the vocabulary, a slice.
    runs = {
        "student's logits": lambda v: product(hidden, head[v].t(), tile[:, v]),
        "student's logits, 16 bits": lambda v: product(hidden, head[v].t(), gradient[:, v]),
        "teacher's logits": lambda v: product(teacher_hidden, teacher_head[v].t(), tile[:, v]),
        "gradient to hidden states": lambda v: product(
            gradient[:, v], head[v], on_hidden, add=v.start > 0
        ),
        "gradient to the head": lambda v: product(gradient[:, v].t(), hidden, on_head[v], add=True),
    }
    for name, run in runs.items():
        width = of.teacher_width if name.startswith("teacher") else of.student_width

        def parted(size: int, run: Callable[[slice], object] = run) -> None:
            for part in vocabulary_parts(size, hidden.dtype, hidden.device):
                run(part)

        seconds = {
            size: machine.seconds(lambda size=size, parted=parted: parted(size), 10)
            for size in (odd, padded)
        }
        whole = machine.seconds(lambda run=run: run(slice(0, odd)), 10)
        rate = 2 * chunk * width * odd / seconds[odd] / 1e12
        label = f"{name}, {chunk} tokens"
        yield Figure(label, rate, "TFLOP/s", **machine.expected(FLOPS))
        # The odd vocabulary has rows that are as long as the padded one's.
        ratio = seconds[odd] / seconds[padded] * padded / odd
        high = MOST_FOR_ODD if machine.is_gpu else None
        yield Figure(f"{label}, odd against padded", ratio, "x", high=high)
        ratio = whole / seconds[padded] * padded / odd
        yield Figure(f"{label}, odd and in one part, against padded", ratio, "x")
