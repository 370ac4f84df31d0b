"""Losses of installed libraries, called as their own trainers call them.

A fused loss takes hidden states and heads. Logits are hidden states of an identity head.
"""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
# torchtune pins a torch of its own; this file of it needs torch alone.
TORCHTUNE = Path("build/field/torchtune/modules/loss/kd_losses.py")


def trl_gkd(student: Tensor, teacher: Tensor, labels: Tensor, beta: float = 0.5) -> Tensor:
    """TRL's ``GKDTrainer``."""
    from trl.experimental.gkd import GKDTrainer

    return GKDTrainer.generalized_jsd_loss(student, teacher, labels, beta=beta)


def trl_distillation(student: Tensor, teacher: Tensor, labels: Tensor, beta: float = 1.0) -> Tensor:
    """TRL's stable ``DistillationTrainer``."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    one = torch.eye(student.shape[-1], dtype=student.dtype)
    return _chunked_divergence_loss(student, teacher, one, one, labels != IGNORED, beta)[0]


def trl_self_distillation(
    student: Tensor, teacher: Tensor, labels: Tensor, alpha: float = 1.0
) -> Tensor:
    """TRL's SDFT and SDPO, over the whole vocabulary."""
    from trl.experimental.sdft.loss_utils import compute_full_logit_self_distillation_loss

    return _trained_mean(
        compute_full_logit_self_distillation_loss(student, teacher, distillation_alpha=alpha),
        labels,
    )


def trl_self_distillation_topk(
    student: Tensor, teacher: Tensor, labels: Tensor, alpha: float = 1.0, tail: bool = True
) -> Tensor:
    """The same over the student's top 6."""
    from trl.experimental.sdft.loss_utils import compute_topk_self_distillation_loss

    each = compute_topk_self_distillation_loss(
        student, teacher, distillation_topk=6, distillation_alpha=alpha, distillation_add_tail=tail
    )
    return _trained_mean(each, labels)


def trl_self_distillation_sampled(
    student_logp: Tensor,
    teacher_logp: Tensor,
    mask: Tensor,
    *,
    student_logits: Tensor,
    teacher_logits: Tensor,
    tokens: Tensor,
) -> Tensor:
    """The same over the sampled token."""
    from trl.experimental.sdft.loss_utils import compute_sampled_token_self_distillation_loss

    each = compute_sampled_token_self_distillation_loss(
        student_logits, teacher_logits, tokens, distillation_alpha=1.0
    )
    return (each * mask).sum() / mask.sum()


def trl_server_forward(
    student: Tensor, top_logp: Tensor, tokens: Tensor, labels: Tensor, tail: bool = True
) -> Tensor:
    """TRL's ``ServerDistillationTrainer`` at β = 0."""
    trainer, server = _server(beta=0.0, tail=tail)
    served = {"topk_logprobs": top_logp, "topk_token_ids": tokens}
    logp = student.log_softmax(-1)
    return server._compute_server_forward_kl_loss(trainer, served, logp, labels)


def trl_server_sampled(
    student_logp: Tensor,
    teacher_logp: Tensor,
    mask: Tensor,
    *,
    student_logits: Tensor,
    teacher_logits: Tensor,
    tokens: Tensor,
    beta: float = 1.0,
) -> Tensor:
    """The same at β > 0: the sampled token, the teacher's likeliest one where β < 1, a bucket."""
    trainer, server = _server(beta=beta, tail=True)
    likeliest = teacher_logits.log_softmax(-1).max(-1)
    return server._compute_sparse_top_1_divergence_loss(
        trainer,
        student_logits.log_softmax(-1),
        likeliest.indices,
        likeliest.values,
        tokens,
        teacher_logp,
        torch.where(mask, tokens, IGNORED),
    )


def trl_iw_opd(
    student_logp: Tensor,
    teacher_logp: Tensor,
    mask: Tensor,
    *,
    student_logits: Tensor,
    tokens: Tensor,
) -> Tensor:
    """TRL's importance-weighted on-policy distillation, at its defaults."""
    from collections import defaultdict

    from trl.experimental.iw_opd import IWOPDConfig
    from trl.experimental.iw_opd.iw_opd_trainer import IWOPDTrainer

    defaults = {name: field.default for name, field in IWOPDConfig.__dataclass_fields__.items()}
    trainer: Any = SimpleNamespace(
        temperature=1.0,
        iw_opd_epsilon=defaults["iw_opd_epsilon"],
        iw_opd_gamma=defaults["iw_opd_gamma"],
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
    )
    labels = torch.where(mask, tokens, IGNORED)
    return IWOPDTrainer._compute_iw_opd_loss(trainer, student_logits, tokens, labels, teacher_logp)


def liger_jsd(
    student: Tensor, teacher: Tensor, labels: Tensor, beta: float = 0.5, hard: float = 0.5
) -> Tensor:
    """Liger's ``LigerFusedLinearJSDLoss``, uncompiled."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=hard, weight_soft_loss=1 - hard, beta=beta, compiled=False
    )
    ones = [torch.eye(logits.shape[-1], dtype=logits.dtype) for logits in (student, teacher)]
    return loss(student.flatten(0, 1), ones[0], teacher.flatten(0, 1), ones[1], labels.flatten())


def torchtune_forward(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """torchtune's ``ForwardKLLoss``."""
    return _torchtune().ForwardKLLoss()(student.flatten(0, 1), teacher.flatten(0, 1), labels)


def torchtune_reverse(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """torchtune's ``ReverseKLLoss``."""
    return _torchtune().ReverseKLLoss()(student.flatten(0, 1), teacher.flatten(0, 1), labels)


@cache
def _torchtune() -> ModuleType:
    if not TORCHTUNE.is_file():
        raise ValueError(f"there is no {TORCHTUNE}: `make field` fetches torchtune 0.6.1")
    spec = importlib.util.spec_from_file_location("torchtune_kd_losses", TORCHTUNE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _server(beta: float, tail: bool) -> tuple[Any, Any]:
    """What the methods of TRL's server trainer read of themselves, and the class."""
    from trl.experimental.server_distillation import ServerDistillationTrainer

    settings = SimpleNamespace(
        beta=beta,
        loss_add_tail=tail,
        _reduce_divergence_loss=ServerDistillationTrainer._reduce_divergence_loss,
        args=SimpleNamespace(report_to=[]),  # its profiler asks for these three
        accelerator=SimpleNamespace(is_main_process=False),
        state=SimpleNamespace(global_step=0),
    )
    return settings, ServerDistillationTrainer


def _trained_mean(each: Tensor, labels: Tensor) -> Tensor:
    mask = labels != IGNORED
    return (each * mask).sum() / mask.sum()
