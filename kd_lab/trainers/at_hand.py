"""What a training's settings ask of packages, devices and the hub is tried before a model loads.

The libraries look for them late: an optimizer's package at the first step, a logger's after both
models are in memory. Here each of them is made once, for one weight.
"""

import copy
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers.integrations
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks

from kd_lab.readable import reason_of
from kd_lab.rollout.engine_arguments import check_vllm


def check_at_hand(config: TrainingArguments) -> None:
    """Refuse settings whose package, device or hub is missing.

    Raises:
        ValueError: names the setting, and what the library says.
    """
    tries: dict[str, Callable[[TrainingArguments], object]] = {
        "report_to": _reporters,
        "optim": _optimizer,
        "lr_scheduler_type": _schedule,
        "dataloader": _loader,
        "push_to_hub": _hub,
        "activation_offloading": _offloading,
        "save_strategy": _best,
        "fsdp": _sharding,
        "rollout_engine": _engine,
    }
    for setting, make in tries.items():
        with _named(setting, config):
            make(config)


def least_bytes(config: TrainingArguments, size: int, dtype: str | None) -> int:
    """The disk that a run of full weights needs at the least: the model, and one checkpoint.

    Args:
        size: parameters of the student.
        dtype: of its weights.
    """
    model = size * (2 if dtype in ("bfloat16", "float16") else 4)
    if config.save_strategy == "no":
        return model
    return model * (2 if config.save_only_model else 4)  # Adam's two moments are as large each


@contextmanager
def _named(setting: str, config: TrainingArguments) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of many packages, which have no common base
        value = getattr(config, setting, None)
        words = getattr(value, "value", value)  # of an Enum, the word that was given
        is_said = words is None or isinstance(words, bool)
        what = setting if is_said else f"{setting} {words}"
        raise ValueError(f"{what}: {reason_of(error)}") from error


def _reporters(config: TrainingArguments) -> None:
    for name in config.report_to or ():
        is_there = getattr(transformers.integrations, f"is_{name}_available", None)
        if is_there is not None and not is_there():
            raise ValueError(f"{name} is not installed: pip install {name}")
    for make in get_reporting_integration_callbacks(config.report_to):
        make()


def _optimizer(config: TrainingArguments) -> None:
    model: Any = torch.nn.Linear(1, 1)
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(config, model)
    if config.optim_args is not None:
        without = copy.copy(config)
        without.optim_args = None
        if Trainer.get_optimizer_cls_and_kwargs(without, model) == (kind, settings):
            raise ValueError(f"optim_args {config.optim_args} would have no effect")
    if not settings.keys() & {"params", "model", "optimizer_dict"}:  # those are made of a model
        kind(model.parameters(), **settings)


def _schedule(config: TrainingArguments) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    get_scheduler(
        config.lr_scheduler_type,
        optimizer,
        num_warmup_steps=1,
        num_training_steps=10,
        scheduler_specific_kwargs=dict(config.lr_scheduler_kwargs or {}),  # type: ignore[arg-type]
    )


def _loader(config: TrainingArguments) -> None:
    names = ("num_workers", "prefetch_factor", "persistent_workers", "multiprocessing_context")
    settings = {name: getattr(config, f"dataloader_{name}") for name in names}
    try:
        torch.utils.data.DataLoader([0], **settings)  # type: ignore[arg-type]  # a list will do
    except (ValueError, TypeError, AssertionError) as error:
        # torch names its own arguments; ours have a word before them.
        raise ValueError(re.sub(f"({'|'.join(names)})", r"dataloader_\1", str(error))) from error


def _hub(config: TrainingArguments) -> None:
    from huggingface_hub import HfApi, constants, get_token

    if not config.push_to_hub:
        return
    if constants.is_offline_mode():
        raise ValueError("this process is offline (HF_HUB_OFFLINE)")
    if config.hub_token is None and get_token() is None:
        raise ValueError("no token for the hub: log in with `hf auth login`")
    HfApi().whoami(token=config.hub_token)


def _offloading(config: TrainingArguments) -> None:
    if getattr(config, "activation_offloading", False) and not torch.accelerator.is_available():
        raise ValueError("there is no accelerator whose memory it would spare")


def _best(config: TrainingArguments) -> None:
    if config.save_strategy == "best" and config.metric_for_best_model is None:
        raise ValueError("best needs a figure to go by: give metric_for_best_model")


def _sharding(config: TrainingArguments) -> None:
    if config.fsdp and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise ValueError("one process has nothing to share out: start several, with a launcher")


def _engine(config: TrainingArguments) -> None:
    if getattr(config, "vllm_mode", None) == "colocate" and config.rollout_engine == "vllm":  # type: ignore[attr-defined]
        check_vllm()
