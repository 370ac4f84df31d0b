"""A measured number, the range that is expected of it, and the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

PASSED, FAILED, MEASURED, NEEDS_GPU = "passed", "failed", "measured", "needs a GPU"


@dataclass(frozen=True)
class Figure:
    """One number of a check.

    A value of None was not measured, since it needs a GPU. A number without a range was measured
    and has no verdict: a speed on a CPU, or on a card whose speed was not computed.
    """

    name: str
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.value is None:
            return NEEDS_GPU
        if self.low is None and self.high is None:
            return MEASURED
        is_low = self.low is not None and not self.value >= self.low  # NaN fails
        is_high = self.high is not None and not self.value <= self.high
        return FAILED if is_low or is_high else PASSED

    @property
    def expected(self) -> str:
        """The range in words."""
        if self.low is None and self.high is None:
            return ""
        if self.low is None:
            return f"at most {self.high:g}"
        if self.high is None:
            return f"at least {self.low:g}"
        if self.low == self.high:
            return f"{self.low:g}"
        return f"{self.low:g} to {self.high:g}"


def verdict_of(figures: Sequence[Figure]) -> str:
    """A check's: failed if a number is, passed if one has passed and none failed."""
    verdicts = {figure.verdict for figure in figures}
    for verdict in (FAILED, PASSED, MEASURED):
        if verdict in verdicts:
            return verdict
    return NEEDS_GPU
