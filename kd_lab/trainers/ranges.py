"""The ranges of the settings of a training: what trains nothing, or cannot, is refused at once."""

import math
from typing import Any, NamedTuple


class Range(NamedTuple):
    """The values that a number may have."""

    low: float
    high: float = math.inf
    words: str = ""  # as a message says it

    def holds(self, value: Any) -> bool:
        """Whether a value is a finite number in the range, its ends included."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and self.low <= value <= self.high


TINY = 1e-300  # the least that is more than nothing
POSITIVE = Range(TINY, words="must be a number above 0")
COUNT = Range(1, words="must be at least 1")
NOT_NEGATIVE = Range(0, words="must be a number, and at least 0")
SHARE = Range(0, 1, words="must lie in [0, 1]")
RANGES = {
    "learning_rate": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "max_grad_norm": NOT_NEGATIVE,
    "warmup_steps": NOT_NEGATIVE,
    "adam_beta1": SHARE,
    "adam_beta2": SHARE,
    "adam_epsilon": POSITIVE,
    "distil_temperature": POSITIVE,
    "gradient_accumulation_steps": COUNT,
    "per_device_train_batch_size": COUNT,
    "per_device_eval_batch_size": COUNT,
    "logging_steps": POSITIVE,
    "save_steps": POSITIVE,
    "eval_steps": POSITIVE,
    "save_total_limit": COUNT,
    "max_length": Range(2, words="must be at least 2"),
    "neftune_noise_alpha": POSITIVE,
    "eval_delay": NOT_NEGATIVE,
    "torch_empty_cache_steps": COUNT,
    "dataloader_num_workers": NOT_NEGATIVE,
    "ddp_bucket_cap_mb": POSITIVE,
    "ddp_timeout": COUNT,
    "seed": Range(0, 2**32 - 1, words="must lie in [0, 2^32)"),
    "data_seed": Range(0, 2**32 - 1, words="must lie in [0, 2^32)"),
}
STRATEGIES = ("random", "sequential", "group_by_length")


def check_ranges(settings: Any) -> None:
    """Refuse numbers out of their range, and settings under which nothing would be trained.

    Args:
        settings: a DistilConfig; a setting that is None is left to transformers.
    Raises:
        ValueError: names the setting, its value and what it may be.
    """
    for name, allowed in RANGES.items():
        value = getattr(settings, name)
        if value is not None and not allowed.holds(value):
            raise ValueError(f"{name} {allowed.words}, not {value}")
    multiple = str(settings.pad_to_multiple_of)  # of the command line it is text
    if multiple not in ("None", "auto") and not (multiple.isdecimal() and int(multiple)):
        raise ValueError(f"pad_to_multiple_of must be auto, or at least 1, not {multiple}")
    steps, epochs = settings.max_steps, settings.num_train_epochs
    if steps != -1 and not COUNT.holds(steps):
        raise ValueError(f"max_steps must be at least 1, or -1 for num_train_epochs, not {steps}")
    if steps == -1 and not POSITIVE.holds(epochs):
        raise ValueError(f"num_train_epochs {POSITIVE.words}, not {epochs}")
    if settings.eval_on_start and settings.eval_strategy == "no":
        raise ValueError(
            "eval_on_start is true, and eval_strategy is no: nothing is to be evaluated"
        )
    if settings.train_sampling_strategy not in STRATEGIES:
        raise ValueError(
            f"train_sampling_strategy must be one of {', '.join(STRATEGIES)}, not "
            f"{settings.train_sampling_strategy!r}"
        )
