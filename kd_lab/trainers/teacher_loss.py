"""The fused loss of a batch against a teacher's hidden states, live or stored, or its top k.

Both take ``(student_hidden, student_head, student_bias, labels, settings)`` last, so that the
rest can be filled in before the student's backbone runs.
"""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from kd_lab.fused_loss import (
    DistillationLoss,
    fused_linear_distillation_loss,
    fused_linear_topk_distillation_loss,
)


def against_hidden(
    teacher_hidden: Tensor | None,
    teacher_head: Tensor | None,
    teacher_bias: Tensor | None,
    shape: dict[str, Any],
    student_hidden: Tensor,
    student_head: Tensor,
    student_bias: Tensor | None,
    labels: Tensor,
    settings: dict[str, Any],
) -> DistillationLoss:
    """Against hidden states [n, H]; None is no teacher at hand, which leaves the cross-entropy."""
    if teacher_hidden is None:
        settings = {**settings, "alpha": 0.0}
    return fused_linear_distillation_loss(
        student_hidden, student_head, teacher_hidden, teacher_head, labels,
        student_bias=student_bias, teacher_bias=teacher_bias, **shape, **settings,
    )  # fmt: skip


def against_topk(
    topk_logp: Tensor,
    topk_tokens: Tensor,
    topk_tail: Tensor,
    shape: dict[str, Any],
    student_hidden: Tensor,
    student_head: Tensor,
    student_bias: Tensor | None,
    labels: Tensor,
    settings: dict[str, Any],
) -> DistillationLoss:
    """Against stored log-probabilities [n, k] of tokens [n, k], and the others' together [n]."""
    return fused_linear_topk_distillation_loss(
        student_hidden, student_head, topk_logp, topk_tokens, labels,
        topk_tail=topk_tail, student_bias=student_bias, **shape, **settings,
    )  # fmt: skip


def check_plain_head(model: PreTrainedModel) -> None:
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
