"""The student to start from: a model, every k-th layer of one, or a shape without weights."""

import json
from dataclasses import dataclass, field, fields
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
from kd_lab.machine import memory
from kd_lab.model_check import check_loadable, unsharded, without_weights
from kd_lab.model_identity import model_files
from kd_lab.model_loading import load_causal_lm, load_config, lora_base
from kd_lab.model_shapes import TOY_HEAD_ROWS
from kd_lab.models import Model
from kd_lab.readable import reason_of
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
        _check_lora(self)


def _check_lora(student: StudentArguments) -> None:
    """Refuse numbers out of range, and LoRA's options where LoRA is off."""
    for name in ("lora_r", "lora_alpha"):
        if getattr(student, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(student, name)}")
    if student.use_peft and student.lora_task_type != "CAUSAL_LM":
        raise ValueError(f"lora_task_type must be CAUSAL_LM, not {student.lora_task_type!r}")
    if not 0 <= student.lora_dropout < 1:
        raise ValueError(f"lora_dropout must lie in [0, 1), not {student.lora_dropout}")
    for of in fields(student):
        is_lora = of.name.startswith("lora_") or of.name in ("use_dora", "use_rslora")
        if is_lora and not student.use_peft and getattr(student, of.name) != of.default:
            raise ValueError(f"{of.name} would have no effect without LoRA: say --use_peft true")
    if student.merge_lora and not student.use_peft:
        raise ValueError("merge_lora is true, and there is no LoRA: say --use_peft true as well")
    for name, value in ("model_shape", student.model_shape), ("keep_every", student.keep_every - 1):
        if student.use_peft and value:
            raise ValueError(
                f"use_peft is true and {name} is given: LoRA weights fit a model in a folder, and "
                "this one is in none; train it first without use_peft, and give its folder as "
                "model_name_or_path"
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
    student: StudentArguments, eos_token: str | None = None, pad_token: str | None = None
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
    for name, token in (("eos_token", eos_token), ("pad_token", pad_token)):
        if token is not None and token not in tokenizer.get_vocab():
            raise ValueError(f"{name}: the student's tokenizer has no token {token!r}")
    if eos_token is not None:
        tokenizer.eos_token = eos_token
    return tokenizer


def head_rows(student: StudentArguments) -> int:
    """Rows of the student's LM head, padding rows included; no weights are read."""
    if student.model_name_or_path is None:
        assert isinstance(student.model_shape, dict)
        return student.model_shape.get("vocab_size", TOY_HEAD_ROWS)
    return Model(student.model_name_or_path, student.model_revision).head_rows


def check_student(student: StudentArguments, tokenizer: PreTrainedTokenizerBase) -> int:
    """Look at the student before anything is loaded: its shape, files, attention and adapters.

    Returns:
        the number of its parameters.
    Raises:
        ValueError: there is no such model; names the option, the key or the file.
    """
    if student.model_name_or_path is None:
        config = _shape_config(student, tokenizer)
        if config.vocab_size < len(tokenizer):
            raise ValueError(
                f"model_shape: vocab_size is {config.vocab_size}, and the toy language has "
                f"{len(tokenizer)} tokens"
            )
        model = without_weights("model_shape", config, student.attn_implementation)
    else:
        model_files(student.model_name_or_path)  # refuses a run that was cut off
        if student.use_peft and lora_base(student.model_name_or_path) is not None:
            raise ValueError(
                f"model_name_or_path: {student.model_name_or_path} holds LoRA weights, and new "
                "ones would be saved without them: set use_peft to false, which trains the model "
                "whole, or train the first ones with merge_lora"
            )
        model = check_loadable(
            student.model_name_or_path, student.model_revision, student.attn_implementation
        )
    size = sum(weight.numel() for weight in model.parameters())
    adapters = get_peft_config(student)
    if adapters is not None:
        from peft import get_peft_model

        try:
            adapted = get_peft_model(model, adapters, low_cpu_mem_usage=True)
        except Exception as error:  # of peft, which has no base of its own
            raise ValueError(
                f"LoRA (lora_target_modules, lora_modules_to_save): {reason_of(error)}"
            ) from error
        check_lora(adapted)
    dtype = loaded_dtype(student)
    if (weights := size * dtype.itemsize) > (room := memory()):
        raise ValueError(
            f"{student.model_name_or_path or 'model_shape'}: a student of {size:,} parameters has "
            f"{weights / 1e9:,.0f} GB of weights in {str(dtype).removeprefix('torch.')}, and this "
            f"process {room / 1e9:,.0f} GB of memory"
        )
    return size


def check_lora(student: Any) -> None:
    """Refuse LoRA where it could not be saved whole, or would not be trained.

    Args:
        student: with its adapters; any other model passes.
    Raises:
        ValueError: names the option and what to do instead.
    """
    if not hasattr(student, "peft_config"):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    model = student.get_base_model()
    if model.config.get_text_config().tie_word_embeddings and any(
        isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        for module in (model.get_output_embeddings(), model.get_input_embeddings())
    ):
        raise ValueError(
            "LoRA would train the LM head or the embeddings, and this model has one matrix for "
            "both: leave them out of lora_modules_to_save and lora_target_modules"
        )
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):  # its weight is read by the loss
        raise ValueError(
            "LoRA cannot train the LM head: leave it out of lora_target_modules, or name it in "
            "lora_modules_to_save alone, which trains it whole"
        )


def _shape_config(student: StudentArguments, tokenizer: PreTrainedTokenizerBase) -> Qwen2Config:
    """The configuration of ``model_shape``, in the toy language."""
    assert isinstance(student.model_shape, dict)
    settings: dict[str, Any] = {
        "vocab_size": TOY_HEAD_ROWS,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        **student.model_shape,
    }
    try:
        return Qwen2Config(**settings)
    except Exception as error:  # of transformers' checks, which have no common base
        raise ValueError(f"model_shape: {reason_of(error)}") from error


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


def loaded_dtype(student: StudentArguments) -> torch.dtype:
    """The dtype of its weights as they are loaded; no weights are read.

    ``auto`` is the dtype in which a model was saved, as its config.json has it. A shape was never
    saved, and is made in float32.
    """
    if student.dtype not in (None, "auto"):
        return getattr(torch, student.dtype)
    if student.dtype is None or student.model_name_or_path is None:
        return torch.float32
    return getattr(torch, Model(student.model_name_or_path, student.model_revision).dtype_name)


def load_student(student: StudentArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The student before training. Random weights come from torch's seed."""
    loading: dict[str, Any] = {"attn_implementation": student.attn_implementation}
    if student.model_name_or_path is None:
        config = _shape_config(student, tokenizer)
        return AutoModelForCausalLM.from_config(config, dtype=loaded_dtype(student), **loading)
    revision, path = student.model_revision, student.model_name_or_path
    # Where config.json does not name the dtype, transformers looks at the weights themselves.
    dtype = "auto" if student.dtype == "auto" else loaded_dtype(student)
    if student.keep_every == 1:  # a model that LoRA was merged into comes frozen
        return load_causal_lm(path, revision, dtype=dtype, **loading).requires_grad_(True)
    with unsharded():
        whole = load_causal_lm(path, revision, dtype=dtype, **loading)
        config = load_config(path, revision)
        kept = range(0, config.num_hidden_layers, student.keep_every)
        config.num_hidden_layers = len(kept)
        if getattr(config, "layer_types", None):
            config.layer_types = [config.layer_types[i] for i in kept]
        shallow = AutoModelForCausalLM.from_config(config, dtype=whole.dtype, **loading)
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
