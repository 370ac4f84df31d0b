"""The registry's names and settings in the field's words, for a page."""

from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "jensen_shannon": "generalised JSD",
    "adaptive_kl": "adaptive KL",
    "skew_forward_kl": "skew forward KL",
    "skew_reverse_kl": "skew reverse KL",
    "total_variation": "total variation distance",
    "cross_entropy": "cross-entropy",
}
SETTINGS = {"alpha": "α", "beta": "β", "mu": "μ"}


def in_words(text: str) -> str:
    """``reverse_kl, the tail in one bucket`` -> ``reverse KL, the tail in one bucket``."""
    for name in sorted(NAMES, key=len, reverse=True):  # forward_kl is a part of skew_forward_kl
        text = text.replace(name, NAMES[name])
    return text


def sum_in_words(parts: Sequence[Mapping[str, Any]]) -> str:
    """The parts of a verdict: ``2 × total variation distance``."""
    words = ""
    for part in parts:
        settings = ", ".join(
            f"{SETTINGS.get(key, key)} {value:g}" for key, value in part["settings"].items()
        )
        size = abs(part["coefficient"])
        times = "" if abs(size - 1) < 5e-3 else f"{size:.3g} × "
        sign = "minus " if part["coefficient"] < 0 else "plus " if words else ""
        name = in_words(part["name"]) + (f" ({settings})" if settings else "")
        words += (" " if words else "") + sign + times + name
    return words
