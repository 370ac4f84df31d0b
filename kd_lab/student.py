"""The student to start from: a model, every k-th layer of one, or a shape without weights."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
)
from trl import ModelConfig, get_peft_config

from kd_lab import model_loading
from kd_lab.data.toy_tokenizer import toy_tokenizer
from kd_lab.honoured_options import check_honoured
from kd_lab.model_loading import load_causal_lm, load_config
from kd_lab.model_shapes import TOY_HEAD_ROWS
from kd_lab.models import Model
from kd_lab.recipe import did_you_mean

if TYPE_CHECKING:
    from peft import PeftConfig


@dataclass
class StudentArguments(ModelConfig):
    """The student. Revision, dtype, attention and LoRA are TRL's ModelConfig, unchanged."""

    model_shape: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "An untrained Qwen2 of this shape (keys of its config.json, as JSON) for the "
            "toy language, instead of model_name_or_path."
        },
    )
    keep_every: int = field(
        default=1,
        metadata={"help": "Start from every k-th layer of model_name_or_path: 2 keeps half."},
    )
    merge_lora: bool = field(
        default=False,
        metadata={
            "help": "LoRA: save the whole model with the trained weights merged in, no adapter."
        },
    )

    def __post_init__(self) -> None:
        check_honoured(self)
        super().__post_init__()
        if isinstance(self.model_shape, str):
            try:
                self.model_shape = json.loads(self.model_shape)
            except json.JSONDecodeError as error:
                raise ValueError(f"model_shape is not JSON: {error.msg}") from error
        if self.model_shape is not None:
            _check_shape(self.model_shape)
        if (self.model_shape is None) == (self.model_name_or_path is None):
            raise ValueError("give the student as either model_name_or_path or model_shape")
        if self.keep_every < 1 or (self.keep_every > 1 and self.model_shape):
            raise ValueError(
                f"keep_every is {self.keep_every}: it must be at least 1, and more only with "
                "model_name_or_path"
            )
        self._check_lora()

    def _check_lora(self) -> None:
        if self.merge_lora and not self.use_peft:
            raise ValueError(
                "merge_lora is true, and there is no LoRA: say --use_peft true as well"
            )
        for name, value in ("model_shape", self.model_shape), ("keep_every", self.keep_every - 1):
            if self.use_peft and value:
                raise ValueError(
                    f"use_peft is true and {name} is given: LoRA weights fit a model in a folder, "
                    "and this one is in none; train it first without use_peft, and give its folder "
                    "as model_name_or_path"
                )


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, dict) or not shape:
        raise ValueError(f"model_shape must be a mapping of Qwen2's keys to numbers, not {shape!r}")
    known = Qwen2Config().to_dict().keys()
    for key, value in shape.items():
        if key not in known:
            raise ValueError(f"model_shape has the unknown key {key!r}{did_you_mean(key, known)}")
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise ValueError(f"model_shape: {key} must be at least 1, not {value}")


def load_tokenizer(
    student: StudentArguments, eos_token: str | None = None
) -> PreTrainedTokenizerBase:
    """The student's own tokenizer, with ``eos_token`` to end an answer if that is given.

    A base model's is often ``<|endoftext|>``, while its chat template ends an answer with another
    token.

    Raises:
        ValueError: the tokenizer has no such token.
    """
    if student.model_name_or_path is None:
        tokenizer: PreTrainedTokenizerBase = toy_tokenizer()
    else:
        tokenizer = model_loading.load_tokenizer(student.model_name_or_path, student.model_revision)
    if eos_token is not None:
        if eos_token not in tokenizer.get_vocab():
            raise ValueError(f"eos_token: the student's tokenizer has no token {eos_token!r}")
        tokenizer.eos_token = eos_token
    return tokenizer


def head_rows(student: StudentArguments) -> int:
    """Rows of the student's LM head, padding rows included; no weights are read."""
    if student.model_name_or_path is None:
        assert isinstance(student.model_shape, dict)
        return student.model_shape.get("vocab_size", TOY_HEAD_ROWS)
    return Model(student.model_name_or_path, student.model_revision).head_rows


def student_config(student: StudentArguments) -> Any:
    """The student's configuration; no weights are read."""
    if student.model_name_or_path is None:
        assert isinstance(student.model_shape, dict)
        return Qwen2Config(**student.model_shape)  # type: ignore[arg-type]
    return load_config(student.model_name_or_path, student.model_revision)


def lora_config(student: StudentArguments) -> "PeftConfig | None":
    """The settings of its LoRA, with the revision of the base; None without LoRA."""
    config = get_peft_config(student)
    if config is not None:
        config.revision = student.model_revision
    return config


def load_student(student: StudentArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The student before training. Random weights come from torch's seed."""
    dtype = getattr(torch, student.dtype) if student.dtype not in (None, "auto") else student.dtype
    loading = {"dtype": dtype or torch.float32, "attn_implementation": student.attn_implementation}
    if student.model_name_or_path is None:
        assert isinstance(student.model_shape, dict)
        config = Qwen2Config(
            **{  # type: ignore[arg-type]
                "vocab_size": TOY_HEAD_ROWS,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
                "bos_token_id": None,
                **student.model_shape,
            }
        )
        return AutoModelForCausalLM.from_config(config, **loading)
    revision, path = student.model_revision, student.model_name_or_path
    if student.keep_every == 1:
        return load_causal_lm(path, revision, **loading)
    with unsharded():
        whole = load_causal_lm(path, revision, **loading)
        config = load_config(path, revision)
        kept = range(0, config.num_hidden_layers, student.keep_every)
        config.num_hidden_layers = len(kept)
        if getattr(config, "layer_types", None):
            config.layer_types = [config.layer_types[i] for i in kept]
        shallow = AutoModelForCausalLM.from_config(config, **loading)
        shallow.get_decoder().load_state_dict(_kept_layers(whole.get_decoder(), list(kept)))
        shallow.get_output_embeddings().load_state_dict(whole.get_output_embeddings().state_dict())
        shallow.generation_config = whole.generation_config
    return shallow


def _kept_layers(decoder: torch.nn.Module, kept: list[int]) -> dict[str, torch.Tensor]:
    """The decoder's weights with the kept layers renumbered, and without the others."""
    weights = {}
    for name, tensor in decoder.state_dict().items():
        first, _, rest = name.partition(".")
        if first == "layers":
            number, _, rest = rest.partition(".")
            if int(number) not in kept:
                continue
            name = f"layers.{kept.index(int(number))}.{rest}"
        weights[name] = tensor
    return weights


@contextlib.contextmanager
def unsharded() -> Iterator[None]:
    """Load whole weights, although under ZeRO-3 transformers would shard them."""
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference
