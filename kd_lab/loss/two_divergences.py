"""The loss of positions of two kinds, each compared by a divergence of its own."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from kd_lab.divergences import Divergence
from kd_lab.loss.chunks import DistillationLoss, LiveDistribution, distillation_loss
from kd_lab.loss.tiles import Objective, Weights


def loss_of_two(
    student: LiveDistribution,
    teacher: LiveDistribution,
    targets: Tensor,
    objective: Objective,
    other: Divergence,
    is_other: Tensor,
    **sizes: Any,
) -> DistillationLoss:
    """The sum of the objective at some positions, and with another divergence at the rest.

    Args:
        student, teacher, targets: at n positions, as of ``distillation_loss``.
        objective: of the positions that are not marked. Both kinds have its divisor, temperature
            and weights.
        other: the divergence of the marked positions.
        is_other: the mark, bool, [n].
        **sizes: ``vocab_size`` and ``chunk_size``, as of ``distillation_loss``.
    Returns:
        the sums of both kinds' parts; ``divergence`` is each position's own.
    """

    def part(divergence: Divergence, where: Tensor) -> DistillationLoss:
        weights = Weights(*(w[where] if isinstance(w, Tensor) else w for w in objective.weights))
        return distillation_loss(
            student._replace(hidden=student.hidden[where]),
            teacher._replace(hidden=teacher.hidden[where]),
            targets[where],
            replace(objective, divergence=divergence, weights=weights),
            **sizes,
        )

    kinds = ((objective.divergence, ~is_other), (other, is_other))
    first, second = (part(of, mark.nonzero().squeeze(-1)) for of, mark in kinds)
    return DistillationLoss(
        first.loss + second.loss,
        first.divergence + second.divergence,
        first.cross_entropy + second.cross_entropy,
        len(targets),
    )
