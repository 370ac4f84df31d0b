"""What would train nothing, or cannot be, is refused by name before anything loads."""

import re
from typing import get_type_hints

import pytest

from kd_lab.trainers.distil_config import DistilConfig

NAN, INF = float("nan"), float("inf")


def config(tmp_path, **settings) -> DistilConfig:
    return DistilConfig(output_dir=str(tmp_path), use_cpu=True, **settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in ("learning_rate", "weight_decay")
            for value in (NAN, INF, -1.0)
        ),
        ("max_grad_norm", NAN),
        ("max_steps", 0),
        ("max_steps", -5),
        ("num_train_epochs", 0),
        ("num_train_epochs", -1),
        ("num_train_epochs", INF),
        ("num_train_epochs", NAN),
        ("gradient_accumulation_steps", 0),
        ("gradient_accumulation_steps", -2),
        ("per_device_train_batch_size", 0),
        ("per_device_eval_batch_size", -1),
        ("distil_temperature", INF),
        ("distil_temperature", 0),
        ("logging_steps", 0),
        ("save_steps", -1),
        ("save_steps", NAN),
        ("eval_steps", -1),
        ("adam_beta2", 1.5),
        ("seed", -1),
        ("max_length", 1),
        ("train_sampling_strategy", "foo"),
        ("pad_to_multiple_of", -7),
        ("pad_to_multiple_of", "0"),
        ("neftune_noise_alpha", -1.0),
        ("eval_delay", -1.0),
    ],
)
def test_a_value_out_of_its_range_is_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"^{name} must .*, not "):
        config(tmp_path, **{name: value})


@pytest.mark.parametrize("text", ["[1]", "not json", "{bad", "3"])
def test_settings_that_are_no_mapping_are_one_line(tmp_path, text):
    with pytest.raises(ValueError, match=r"^divergence_settings "):
        config(tmp_path, divergence="jensen_shannon", divergence_settings=text)


# Elsewhere: of a distributed launch, and of the policy gradient, which names them itself.
MAY_BE_NEGATIVE = {"local_rank", "teacher_mix", "reward_clip", "updates_per_rollout", "ratio_clip"}


def test_no_other_number_may_be_negative(tmp_path):
    accepted = set()
    for name, hint in get_type_hints(DistilConfig).items():
        if DistilConfig.__dataclass_fields__[name].init and re.search(
            r"\b(int|float)\b", str(hint)
        ):
            try:
                config(tmp_path, **{name: -7})
                accepted.add(name)
            except (ValueError, TypeError, ImportError):
                continue
    assert accepted == MAY_BE_NEGATIVE


def test_a_number_of_steps_leaves_the_epochs_alone(tmp_path):
    assert config(tmp_path, max_steps=3).max_steps == 3
    assert config(tmp_path, learning_rate=0.0).learning_rate == 0
