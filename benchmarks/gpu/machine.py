"""The device of the checks: its name, its clock, its memory."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Range = tuple[float | None, float | None]


@dataclass(frozen=True)
class Machine:
    """A CUDA GPU, or a CPU on which the same code runs in small."""

    device: str  # "cuda" or "cpu"
    name: str

    @classmethod
    def of(cls, device: str) -> "Machine":
        """The machine under this process; on CUDA its first GPU."""
        name = torch.cuda.get_device_name(0) if device == "cuda" else "CPU"
        return cls(device, name)

    @property
    def is_gpu(self) -> bool:
        return self.device == "cuda"

    def expected(self, ranges: Mapping[str, Range]) -> dict[str, float | None]:
        """The range of a speed on this card, as a ``Figure`` takes it; none on other cards.

        Args:
            ranges: by a part of the card's name, as the driver gives it.
        """
        for card, (low, high) in ranges.items():
            if self.is_gpu and card in self.name:
                return {"low": low, "high": high}
        return {}

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        """Median of so many runs, after two that compile and warm up; by CUDA events on a GPU."""
        if not self.is_gpu:
            return statistics.median(_wall_seconds(run) for _ in range(repeats))
        for _ in range(2):
            run()
        found = []
        for _ in range(repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) / 1000)
        return statistics.median(found)

    def peak_bytes(self, run: Callable[[], object]) -> int | None:
        """The most bytes of tensors during a run, above those before it; None on a CPU."""
        if not self.is_gpu:
            run()
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def _wall_seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
