"""The distillation loss by its definition, with whole logits: to read, and to test against.

At each trained position it compares the teacher's distribution p and the student's q over the next
token. The student also learns the answer's own next token, as in plain SFT:

    loss = α·T²·mean D(p_T, q_T) + (1-α)·mean -log q(target)

The fused loss of this folder computes the same without ever holding logits whole.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from kd_lab.divergences import Divergence
from kd_lab.vocabulary import IGNORED


def plain_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    divergence: Divergence,
    *,
    alpha: float = 0.5,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, mean divergence and mean cross-entropy of a batch, in nats per trained token.

    Args:
        student_logits, teacher_logits: both models' logits at every token, [B, T, V]. If one has
            more vocabulary rows for padding, only the first V shared ones count.
        labels: [B, T], not shifted: the token itself where it is trained, -100 elsewhere.
        divergence: D(p, q) of log-probabilities, a function of ``kd_lab.divergences``.
        alpha: share of the divergence; 1 - alpha is the share of plain SFT.
        temperature: T, on both models' logits inside the divergence only; T² keeps the size of the
            gradient (Hinton et al. 2015, arXiv 1503.02531).
    Returns:
        three scalars that carry gradients: loss, divergence (without T²), cross-entropy.
    Raises:
        ValueError: a temperature that is not a positive number.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive, not {temperature}")
    vocab_size = min(student_logits.shape[-1], teacher_logits.shape[-1])
    trained = labels[:, 1:] != IGNORED  # position t predicts token t + 1
    student = student_logits[:, :-1, :vocab_size][trained]  # [n, V]
    teacher = teacher_logits[:, :-1, :vocab_size][trained].detach()
    targets = labels[:, 1:][trained]  # [n]
    teacher_logp = F.log_softmax(teacher / temperature, -1)
    student_logp = F.log_softmax(student / temperature, -1)
    compared = divergence(teacher_logp, student_logp).mean()
    cross_entropy = F.cross_entropy(student, targets)
    loss = alpha * temperature**2 * compared + (1 - alpha) * cross_entropy
    return loss, compared, cross_entropy
