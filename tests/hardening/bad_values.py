"""Wrong values of every option of every command, from the fields that the command line takes.

A new option is covered at once: its type says which values are wrong. What a type does not say
stands in the short lists below: where 0, less than 0 or more than 1 is right, and which words are.
"""

import dataclasses
import importlib
import random
from collections.abc import Iterator
from enum import Enum
from inspect import isclass
from typing import Any, Literal, NamedTuple, get_origin, get_type_hints

from kd_lab.cli import COMMANDS
from kd_lab.honoured_options import PASSED_OVER
from kd_lab.recipe import kinds
from kd_lab.trainers.ranges import RANGES
from tests.hardening.workspace import RIGHT


class BadLine(NamedTuple):
    """A command line that is wrong in one respect."""

    words: tuple[str, ...]  # the command first
    named: tuple[str, ...]  # the message must hold one of them
    recipe: str | bytes | None = None  # the content of recipe.yaml, which the words name


class Option(NamedTuple):
    """An option of a command, with its type."""

    command: str
    name: str
    kinds: tuple[type, ...]
    default: Any


# Options that count for nothing unless others are set too.
LORA = ("--use_peft", "true")
POLICY = ("--policy_gradient", "true", "--prefixes", "student", "--divergence", "reverse_kl")
NEEDS = {
    **dict.fromkeys(("lora_r", "lora_alpha", "lora_dropout", "lora_task_type"), LORA),
    "lora_target_modules": LORA,
    **dict.fromkeys(
        ("teacher_mix", "reward_clip", "updates_per_rollout", "ratio_clip"),
        (*POLICY, "--alpha", "1"),
    ),
    "topk": ("--teacher_signal", "topk"),
    "test_share": ("--dataset", "talks.jsonl"),
    "metric_for_best_model": ("--eval_strategy", "steps"),
    "eval_steps": ("--eval_strategy", "steps"),
    "eval_delay": ("--eval_strategy", "steps"),
    "max_steps": (),
    "num_train_epochs": ("--max_steps", "-1"),
}
ZERO_IS_RIGHT = {
    "conversation_seed", "question_seed", "generation_seed", "seed", "data_seed", "top_k",
    "local_rank", "zero_stage", "dataloader_num_workers", "torch_empty_cache_steps",
    "dataloader_prefetch_factor", "pad_to_multiple_of", "ddp_bucket_cap_mb",
}  # fmt: skip
NEGATIVE_IS_RIGHT = {"local_rank"}
AT_MOST_ONE = {
    "alpha", "student_share", "top_p", "two_turn_share", "test_share", "teacher_mix", "ratio_clip",
    "lora_dropout", "utilisation", "trained_share", "adam_beta1", "adam_beta2",
}  # fmt: skip
HUGE_IS_WRONG = {
    "conversation_seed", "question_seed", "generation_seed", "seed", "data_seed", "topk",
    "num_conversations", "num_test_conversations", "max_new_tokens",
}  # fmt: skip
CLOSED_WORDS = {
    "teacher_dtype", "dtype", "engine", "split", "teacher_signal", "divergence", "prefixes",
    "study", "train_sampling_strategy", "log_level", "log_level_replica", "packing_strategy",
    "dataloader_multiprocessing_context", "ddp_backend", "fsdp", "debug", "attn_implementation",
    "lora_task_type", "report_to", "metric_for_best_model", "eos_token", "pad_token", "optim_args",
    "include_num_input_tokens_seen", "pad_to_multiple_of", "lora_target_modules", "form", "expect",
    "teacher_attn_implementation", "gpu",
}  # fmt: skip
# Any mapping is right, or none of the run's own: what is in it is the business of others.
OPEN_MAPPINGS = {
    "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs", "deepspeed", "settings",
    "expect_settings",
}  # fmt: skip


def options() -> Iterator[Option]:
    """Every option of every command."""
    for command, entry in COMMANDS.items():
        for of in importlib.import_module(entry.module).ARGUMENTS:
            hints = get_type_hints(of)
            for field in dataclasses.fields(of):
                if field.init:
                    default = (
                        field.default
                        if field.default_factory is dataclasses.MISSING
                        else field.default_factory()
                    )
                    types = tuple(kinds(hints[field.name]))
                    yield Option(command, field.name, types, default)


def wrong_values(option: Option) -> list[str]:
    """Words that are no value of the option, as one types them."""
    name, types = option.name, [getattr(kind, "__origin__", kind) for kind in option.kinds]
    if name in PASSED_OVER:
        return [_another(option, types)]
    wrong = []
    if bool in types and str not in types:
        wrong += ["perhaps", "2", ""]
    if int in types and str not in types:
        wrong += ["many", "1.5", "", "nan"]
    if float in types:
        wrong += ["much", "", "nan", "inf", "-inf"]
    if int in types or float in types:
        wrong += [] if name in NEGATIVE_IS_RIGHT else ["-7"]
        wrong += ["1.5"] if name in AT_MOST_ONE else []
        wrong += [str(10**30)] if name in HUGE_IS_WRONG and option.command != "check" else []
        zero = RANGES[name].holds(0) if name in RANGES else name in ZERO_IS_RIGHT
        wrong += ["0"] if (int in types and not zero) or (name in RANGES and not zero) else []
    if dict in types:
        wrong += ["[1]", "{bad", "7"]
        wrong += [] if name in OPEN_MAPPINGS else ["{no_such_key: 1}"]
    reads_it = option.command != "plan" or name not in ("eos_token", "pad_token")
    if (name in CLOSED_WORDS and reads_it) or any(map(_has_words, option.kinds)):
        wrong += ["foo"]
    return wrong


def bad_values(draw: random.Random) -> Iterator[BadLine]:
    """For each option: wrong values, a misspelt name, and both in a recipe."""
    known = {(option.command, option.name) for option in options()}
    for option in options():
        command, name = option.command, option.name
        more = NEEDS.get(name, ()) if command != "check" else ()
        right = (command, *RIGHT[command], *more)
        for value in wrong_values(option):
            yield BadLine((*right, f"--{name}={value}"), (name,))
            if value not in ("", "nan", "inf", "-inf") and name not in PASSED_OVER:
                recipe = f"{name}: {value}\n"
                words = _without((*right, "--config", "recipe.yaml"), name)
                yield BadLine(words, (name, "recipe.yaml"), recipe)
        misspelt = misspell(name, draw)
        if (command, misspelt) not in known:
            yield BadLine((*right, f"--{misspelt}", "1"), (misspelt,))
            words = (*right, "--config", "recipe.yaml")
            yield BadLine(words, (misspelt,), f"{misspelt}: 1\n")
        if not any(kind in (list, dict) for kind in option.kinds) and dict[str, Any] not in (
            option.kinds
        ):
            words = _without((*right, "--config", "recipe.yaml"), name)
            yield BadLine(words, (name,), f"{name}: {{a: [1, 2]}}\n")


def misspell(word: str, draw: random.Random) -> str:
    """The word with a letter less, a letter twice, or two of them exchanged."""
    at = draw.randrange(len(word) - 1)
    return draw.choice(
        [
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        ]
    )


def _has_words(kind: Any) -> bool:
    """Whether the type lists its values."""
    return get_origin(kind) is Literal or (isclass(kind) and issubclass(kind, Enum))


def _another(option: Option, types: list[type]) -> str:
    """A value other than the default, of the option's type."""
    if isinstance(option.default, bool) or bool in types:
        return str(not option.default).lower()
    if int in types or float in types:
        return str((option.default or 0) + 1)
    if dict in types:
        return '{"a": 1}'
    words = [getattr(kind, "__args__", ()) for kind in option.kinds]
    return next((str(word) for some in words for word in some if word != option.default), "foo")


def _without(words: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The words without an option and its value, which would win against the recipe."""
    if f"--{name}" not in words:
        return words
    at = words.index(f"--{name}")
    return _without((*words[:at], *words[at + 2 :]), name)
