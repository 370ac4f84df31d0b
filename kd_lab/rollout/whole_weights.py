"""The weights of a model in training, as its checkpoint would hold them, one at a time.

An engine takes weights by their names in a checkpoint. What training puts around them is undone on
the way: LoRA is merged into a copy of each matrix, and a weight that FSDP2 has sharded is gathered.
The model itself stays as it is, to the bit.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

CHECKPOINTING = "_checkpoint_wrapped_module."  # in names, where FSDP recomputes activations


@torch.no_grad()
def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every weight; a tied one comes once.

    Under FSDP2 every process must take all of them, in this order, since each is gathered by all.

    Args:
        model: a model of transformers, or of PEFT around one. Under ZeRO-3 its weights are gathered
            already.
    Yields:
        the name in the checkpoint, and the value on the model's device, in its dtype.
    Raises:
        ValueError: an adapter that is no plain LoRA.
    """
    plain: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
    for name, weight in plain.named_parameters():
        name = name.replace(CHECKPOINTING, "")
        if not hasattr(model, "peft_config"):
            yield name, _whole(weight)
        elif (place := _place(plain, name)) is not None:
            yield place, _merged(plain, name, weight)


def _place(model: nn.Module, name: str) -> str | None:
    """The name of an adapted model's weight in a plain checkpoint; None for what has none."""
    if ".original_module." in name or ".lora_" in name:
        return None
    owner, trained, rest = name.partition(".modules_to_save.")
    if trained:  # a copy that PEFT trains in place of the original
        adapter, _, leaf = rest.partition(".")
        active = model.get_submodule(owner).active_adapters
        return f"{owner}.{leaf}" if adapter in active else None  # type: ignore[operator]
    return name.replace(".base_layer.", ".")


def _merged(model: nn.Module, name: str, weight: Tensor) -> Tensor:
    """A weight plus what LoRA adds to it."""
    owner, adapted, leaf = name.rpartition(".base_layer.")
    if not adapted or leaf != "weight":
        return _whole(weight)
    layer: Any = model.get_submodule(owner)
    merged = _whole(weight).clone()
    for adapter in layer.active_adapters:
        if adapter not in layer.lora_A and adapter not in getattr(layer, "lora_embedding_A", {}):
            continue
        if adapter in getattr(layer, "lora_variant", {}):
            raise ValueError(
                "rollout_engine vllm takes plain LoRA weights, merged into the matrices: leave out "
                "use_dora, or say --rollout_engine transformers"
            )
        merged += _whole(layer.get_delta_weight(adapter)).to(merged.dtype)
    return merged


def _whole(weight: Tensor) -> Tensor:
    value = weight.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value
