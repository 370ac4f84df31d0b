"""The losses that students are trained with: the field's, and the exact objective of each name.

A control has the same prefixes as the losses beside it: students differ in the loss alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evidence.field import formulas as field_formulas
from evidence.field import libraries
from kd_lab.check.forms import Loss
from kd_lab.divergences import forward_kl, jensen_shannon, reverse_kl
from kd_lab.vocabulary import IGNORED

TOP_K = 4


@dataclass(frozen=True)
class StudentLoss:
    """A loss as students are trained with it.

    Attributes:
        key: a file's name.
        what: in the field's words.
        who: where it is found; "" for a control.
        control: the key of the exact objective that it is named after; of a control its own.
        function, form, settings: as ``kd_lab.check.forms.Loss`` takes them.
        prefixes: "student" or "dataset".
        temperature: by which the teacher's logits are divided before it is served.
    """

    key: str
    what: str
    who: str
    control: str
    function: Callable[..., Tensor]
    form: str = "logits"
    settings: dict[str, Any] = field(default_factory=dict)
    prefixes: str = "student"
    temperature: float = 1.0

    @property
    def loss(self) -> Loss:
        """As the check calls it."""
        return Loss(
            self.function, self.form, self.settings, self.prefixes, topk=TOP_K, dtype=torch.float32
        )


def _exact(divergence: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        each = divergence(teacher.log_softmax(-1), student.log_softmax(-1))
        mask = labels != IGNORED
        return (each * mask).sum() / mask.sum()

    return loss


def cross_entropy(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """SFT, where the labels are the dataset's."""
    return F.cross_entropy(student.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def jsd_and_own_likelihood(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """JSD, and cross-entropy on the same answers, which the student wrote."""
    return _exact(jensen_shannon)(student, teacher, labels) + cross_entropy(
        student, teacher, labels
    )


def _on_dataset(
    key: str, what: str, who: str, control: str, function: Callable[..., Tensor], form: str = "topk"
) -> StudentLoss:
    return StudentLoss(key, what, who, control, function, form, prefixes="dataset")


F_ = field_formulas
OWN, DATA, OWN_JSD = "reverse_kl", "dataset_forward_kl", "jsd"
DATA_REVERSE = "dataset_reverse_kl"

STUDENT_LOSSES = (
    # On the student's answers.
    StudentLoss(OWN, "reverse KL, exact", "", OWN, _exact(reverse_kl)),
    StudentLoss("forward_kl", "forward KL, exact", "", OWN, _exact(forward_kl)),
    StudentLoss(OWN_JSD, "JSD (β ½), exact", "", OWN_JSD, _exact(jensen_shannon)),
    StudentLoss("k1_advantage", "k1 in the reward", "tinker-cookbook, slime, prime-rl",
                OWN, F_.k1_advantage, "advantage"),
    StudentLoss("k1_to_go", "k1 in the reward, with what comes later", "MiniLLM",
                OWN, F_.k1_to_go, "advantage"),
    StudentLoss("k2", "k2 as a loss", "verl", OWN, F_.k2, "tokens"),
    StudentLoss("k1", "k1 as a loss", "AReaL", OWN, F_.k1, "tokens"),
    StudentLoss("k3", "k3 as a loss", "torchrl", OWN, F_.unclamped_k3, "tokens"),
    StudentLoss("clamped_k3", "k3 as a loss, clamped", "verl's default", OWN, F_.k3, "tokens"),
    StudentLoss("k3_advantage", "k3 in the reward", "verl, use_policy_gradient",
                OWN, F_.k3_advantage, "advantage"),
    StudentLoss("abs", "|k1| as a loss", "verl", OWN, F_.absolute, "tokens"),
    StudentLoss("sampled_bucket", "sampled token and a bucket", "TRL's server trainer, β 1",
                OWN, libraries.trl_server_sampled, "tokens"),
    StudentLoss("prefix_penalty", "a prefix's top-k KL in the advantage", "miles", OWN,
                F_.prefix_penalty, "advantage", {"k": TOP_K}),
    StudentLoss("jsd_and_ce", "JSD (β ½), and cross-entropy on the same answers",
                "ms-swift before #6940", OWN_JSD, jsd_and_own_likelihood),
    StudentLoss("served_cold", "reverse KL, teacher served at temperature 0.7", "", OWN,
                _exact(reverse_kl), temperature=0.7),
    # On the dataset's answers.
    _on_dataset("sft", "SFT", "", DATA, cross_entropy, "logits"),
    _on_dataset(DATA, "forward KL, exact", "", DATA, _exact(forward_kl), "logits"),
    _on_dataset(DATA_REVERSE, "reverse KL, exact", "", DATA_REVERSE, _exact(reverse_kl), "logits"),
    _on_dataset("bucket", "forward KL, tail in one bucket", "TRL's server trainer, β 0", DATA,
                libraries.trl_server_forward),
    _on_dataset("truncated", "forward KL, truncated and not below 0", "verl", DATA,
                F_.truncated_forward),
    _on_dataset("teacher_renormalised", "forward KL, teacher renormalised", "axolotl", DATA,
                F_.teacher_renormalised),
    _on_dataset("both_renormalised", "forward KL, both renormalised", "ms-swift, NeMo-RL", DATA,
                F_.both_renormalised),
    _on_dataset("uniform_outside", "forward KL, the tail shared evenly", "DistillKit", DATA,
                F_.uniform_outside),
    _on_dataset("fixed_outside", "reverse KL, -100 nats outside", "NeMo-RL", DATA_REVERSE,
                F_.fixed_outside),
    _on_dataset("truncated_reverse", "reverse KL, truncated", "verl before #5041", DATA_REVERSE,
                F_.truncated_reverse),
)  # fmt: skip
