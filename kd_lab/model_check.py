"""A model is looked at before any is loaded: its shape, its files' headers, its attention.

The shape is built once without weights, on torch's meta device. So what its configuration or its
attention lacks is found in a moment, and not after the other model took a minute to load.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kd_lab.model_identity import model_files
from kd_lab.model_loading import lacks, load_config, lora_base
from kd_lab.readable import readable, reason_of

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel

GENERATION = "generation_config.json"


def check_loadable(
    name: str, revision: str | None = None, attn_implementation: str | None = None
) -> "PreTrainedModel":
    """The model without weights, once its files were found to fit it; LoRA weights: their base.

    Raises:
        ValueError: its configuration is of no model, its attention is not at hand, or a file of
            weights is damaged or does not fit; names the folder or the file. Or the base of LoRA
            weights is the folder of a run that is not finished.
    """
    base = lora_base(name)
    if base is not None:
        try:
            model_files(base[0])
        except ValueError as error:
            raise ValueError(f"{name} holds LoRA weights, and of their base: {error}") from error
        return check_loadable(*base, attn_implementation)
    model = without_weights(name, load_config(name, revision), attn_implementation)
    if Path(name).is_dir():
        _check_weights(Path(name), model)
        _check_generation(Path(name) / GENERATION)
    return model


def without_weights(
    name: str, config: Any, attn_implementation: str | None = None
) -> "PreTrainedModel":
    """The model of a configuration on the meta device.

    Args:
        name: of the model or the option, for messages.
    Raises:
        ValueError: there is no such model, or no such attention.
    """
    from transformers import AutoModelForCausalLM

    _check_heads(name, config.get_text_config())
    try:
        with unsharded(), torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, attn_implementation=attn_implementation)
    except Exception as error:  # of transformers and torch, which have no common base
        if attn_implementation is not None and _is_a_shape(name, config):
            raise ValueError(
                f"{name}: attn_implementation {attn_implementation} is not at hand: "
                f"{reason_of(error)}"
            ) from error
        raise ValueError(f"{name}: no model has this shape: {reason_of(error)}") from error


def _is_a_shape(name: str, config: Any) -> bool:
    try:
        without_weights(name, config)
    except ValueError:
        return False
    return True


def _check_generation(path: Path) -> None:
    """Refuse a file that cannot be read: transformers would go on without its end tokens."""
    if path.is_file():
        with readable(path):
            settings = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(settings, dict):
                raise ValueError("it holds no mapping")
            ends = settings.get("eos_token_id")
            tokens = ends if isinstance(ends, list) else [ends]
            if ends is not None and not all(type(token) is int for token in tokens):
                raise ValueError(f"eos_token_id must be a token's number or a list, not {ends!r}")


def _check_heads(name: str, config: Any) -> None:
    """Refuse heads that cannot share keys: torch finds it at the first step only."""
    heads = getattr(config, "num_attention_heads", None)
    shared = getattr(config, "num_key_value_heads", None)
    if isinstance(heads, int) and isinstance(shared, int) and shared > 0 and heads % shared:
        raise ValueError(
            f"{name}: {heads} attention heads cannot share {shared} heads of keys and values: "
            "num_key_value_heads must divide num_attention_heads"
        )


def _check_weights(folder: Path, model: "PreTrainedModel") -> None:
    """Compare the headers of the folder's files with the model's shapes, where the names agree."""
    from safetensors import safe_open

    wanted = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    found = []
    for file in sorted(folder.glob("model*.safetensors")):
        with readable(file), safe_open(file, "pt") as weights:
            names = list(weights.keys())
            shapes = [tuple(weights.get_slice(name).get_shape()) for name in names]
        found += names
        for name, shape in zip(names, shapes, strict=True):
            if wanted.get(name, shape) != shape and not _is_quantised(model):
                raise ValueError(
                    f"{file}: {name} has the shape {list(shape)}, and {list(wanted[name])} by the "
                    "config.json beside it"
                )
    if found and not any(_is_part(name, wanted) for name in found):
        kind = model.config.model_type
        raise ValueError(f"{folder} holds no weight of a {kind} model, as its config.json has it")
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    lacking = sorted(wanted.keys() - {*found} - {*tied})
    optional = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    lacking = [
        name
        for name in lacking
        if not _is_part(name, found) and not any(re.search(of, name) for of in optional)
    ]
    if found and lacking and not _is_quantised(model):
        raise ValueError(lacks(folder, lacking))


def _is_quantised(model: "PreTrainedModel") -> bool:
    return getattr(model.config, "quantization_config", None) is not None


def _is_part(name: str, wanted: Iterable[str]) -> bool:
    """Whether a weight is of the model, with or without the prefix of its base."""
    return any(ours.endswith(name) or name.endswith(ours) for ours in wanted)


@contextlib.contextmanager
def unsharded() -> Iterator[None]:
    """Make or load whole weights, although under ZeRO-3 transformers would shard them."""
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference
