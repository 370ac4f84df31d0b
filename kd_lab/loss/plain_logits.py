"""Whether a model's logits are its last hidden states times its LM head, as the loss has it."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed
    from transformers import PreTrainedModel


def check_plain_head(model: "PreTrainedModel") -> None:
    """Refuse a model whose logits are more than hidden states times a head.

    Raises:
        ValueError: the configuration scales or caps the logits (Gemma 2, Cohere, Granite).
    """
    config = model.config.get_text_config()
    for name, plain in (
        ("final_logit_softcapping", None),
        ("logit_scale", 1),
        ("logits_scaling", 1),
    ):
        if getattr(config, name, plain) not in (None, plain):
            raise ValueError(
                f"{config.name_or_path or type(model).__name__}: its config.json sets {name} to "
                f"{getattr(config, name)}, and the fused loss multiplies by the head only: such a "
                "model is not supported"
            )


@torch.inference_mode()
def check_plain_logits(model: "PreTrainedModel", input_ids: Tensor) -> None:
    """Refuse a model whose logits are more than hidden states times a head (Gemma 2, Cohere).

    Raises:
        ValueError: the model's own logits on ``input_ids`` [T] are not the head's.
    """
    ids = input_ids[None].to(model.device)
    logits = model(input_ids=ids, use_cache=False).logits.float()
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    own = model.get_output_embeddings()(hidden).float()
    if (logits - own).abs().max() > 1e-2 * own.abs().max():
        raise ValueError(
            f"{type(model).__name__} scales or caps the logits after its head, and what is stored "
            "is hidden states and a head: such a teacher is not supported"
        )
