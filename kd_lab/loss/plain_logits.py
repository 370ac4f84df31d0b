"""Whether a model predicts the next token as the loss has it: hidden states times a head, causally.

The fused loss takes a model's last hidden states and its LM head, and never its logits. A model
that scales, caps or transforms in between would be trained as another one. So it is asked once, on
a few tokens: numbers decide, and no list of names.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed
    from transformers import PreTrainedModel

TOKENS = 8  # of the row that a model is asked about
# The same products of the same numbers, so that rounding alone may differ; relative to the largest.
TOLERANCE, TOLERANCE_OF_16_BITS = 1e-5, 1e-2


def check_plain_head(model: "PreTrainedModel") -> None:
    """Refuse a model whose configuration says that its logits are more than states times a head.

    Raises:
        ValueError: the configuration scales or caps the logits (Gemma 2, Cohere, Granite).
    """
    config = model.config.get_text_config()
    for name, plain in (
        ("final_logit_softcapping", None),
        ("logits_soft_cap", None),
        ("logit_scale", 1),
        ("logits_scaling", 1),
        ("lm_head_multiplier", 1),
    ):
        if getattr(config, name, plain) not in (None, plain):
            raise ValueError(
                f"{_name(model)}: its config.json sets {name} to {getattr(config, name)}, and the "
                "fused loss multiplies by the head only: such a model is not supported"
            )


@torch.no_grad()
def check_plain_logits(model: "PreTrainedModel", input_ids: Tensor) -> None:
    """Refuse a model whose logits are not its hidden states times its head, or that looks ahead.

    It is in eval mode meanwhile and draws no random number. A model that is sharded is asked inside
    of its wrapper's forward.

    Args:
        input_ids: some tokens, [T]; the first few are read.
    Raises:
        ValueError: the logits are scaled, capped or transformed (Falcon-H1, BERT), or those of a
            token change with a later one (an encoder).
        FloatingPointError: a logit is infinite or NaN, and the hidden states are not.
    """
    first = input_ids[:TOKENS].to(model.device)
    first = torch.cat([first, first]) if len(first) == 1 else first
    other = first.clone()
    other[-1] = (other[-1] + 1) % model.config.get_text_config().vocab_size
    states: list[Tensor] = []
    hook = model.get_decoder().register_forward_hook(
        lambda module, inputs, output: states.append(output[0])
    )
    try:
        with eval_mode(model):
            ids = torch.stack([first, other])  # [2, T]
            logits = model.forward(input_ids=ids, use_cache=False).logits
            own = model.get_output_embeddings()(states[-1]) if states else logits * torch.nan
    finally:
        hook.remove()
    tolerance = TOLERANCE if own.element_size() >= 4 else TOLERANCE_OF_16_BITS
    logits, own = logits.float(), own.float()
    largest = logits.abs().max()
    if states and not states[-1].isfinite().all():
        return  # who reads the states says where
    if not logits.isfinite().all():
        raise FloatingPointError(f"{_name(model)}: its logits are infinite or NaN: is its LM head?")
    if not (logits - own).abs().max() <= tolerance * largest:
        raise ValueError(
            f"{_name(model)}: its logits are not its last hidden states times its LM head, as the "
            f"fused loss has them: a {model.config.model_type} model changes them on the way, and "
            "is not supported"
        )
    if (logits[0, :-1] - logits[1, :-1]).abs().max() > tolerance * largest:
        raise ValueError(
            f"{_name(model)}: its predictions at a token change with the tokens after it, so that "
            f"it has seen what it predicts: this {model.config.model_type} model is no causal "
            "language model"
        )


def _name(model: "PreTrainedModel") -> str:
    return model.config.get_text_config().name_or_path or type(model).__name__


@contextlib.contextmanager
def eval_mode(*models: nn.Module) -> Iterator[None]:
    """Turn off dropout, and gradient checkpointing, which would switch a cache off, for a while."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
