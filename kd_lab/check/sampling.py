"""The expected gradient of a loss whose rows depend on one another, by sampling.

An advantage that is whitened over its batch, or has a baseline of the batch's mean, says nothing
about one token alone. Here batches are drawn as a run would draw them, and the mean gradient comes
with its covariance, so that what it is compared with can be refused at a stated level.
"""

from typing import NamedTuple

import torch
from scipy.stats import chi2
from torch import Tensor

from kd_lab.check.forms import Loss, writer
from kd_lab.check.situations import Situations

SIZE, BATCHES = 64, 200  # tokens of a batch; batches in each situation
LEVEL = 0.01  # how often a right name is refused
SAME = 1e-4  # relative: no difference


class Sampled(NamedTuple):
    """Mean gradients and how far they may be off."""

    mean: Tensor  # [S, V]
    covariance: Tensor  # of the mean, [S, V, V]

    def tolerance(self, usual: Tensor) -> float:
        """The residual's length that a right name exceeds with probability ``LEVEL``.

        Args:
            usual: lengths [S] by which each situation's residual is divided.
        Satterthwaite's approximation of a sum of squares by a scaled chi-square.
        """
        scaled = self.covariance / usual[:, None, None] ** 2
        total = float(scaled.diagonal(dim1=-2, dim2=-1).sum())
        squares = float(scaled.square().sum())
        if squares == 0:
            return 0.0
        scale, freedom = squares / total, total**2 / squares
        return float((scale * chi2.ppf(1 - LEVEL, freedom)) ** 0.5)


def depends_on_batch(loss: Loss, at: Situations, seed: int = 0) -> bool:
    """Whether a token's gradient changes with the other tokens of its batch.

    Batches of one size may differ from their tokens alone by one factor, which is the division by
    their number. A loss that is not finite for one token alone depends on the others too.
    """
    draw = torch.Generator().manual_seed(seed)
    teacher, student = at.teacher_logits[0], at.student_logits[0]
    factors = []
    for _ in range(2):
        tokens = torch.randint(0, at.teacher_logits.shape[-1], (8,), generator=draw)
        together = batch_gradient(loss, teacher, student, tokens)  # [8, V]
        alone = torch.cat([batch_gradient(loss, teacher, student, token[None]) for token in tokens])
        if not alone.isfinite().all():
            return True
        factor = (together * alone).sum() / alone.square().sum().clamp(min=1e-300)
        if (together - factor * alone).norm() > SAME * together.norm():
            return True
        factors.append(float(factor))
    return abs(factors[1] - factors[0]) > SAME * abs(factors[0])


def sampled_gradients(loss: Loss, at: Situations, seed: int = 0) -> Sampled:
    """Mean gradients over batches of sampled tokens, in all situations."""
    draw = torch.Generator().manual_seed(seed)
    means, covariances = [], []
    for teacher, student in zip(at.teacher_logits, at.student_logits, strict=True):
        share = writer(loss, teacher, student)
        rows = []
        for _ in range(BATCHES):
            tokens = torch.multinomial(share, SIZE, replacement=True, generator=draw)
            rows.append(batch_gradient(loss, teacher, student, tokens).sum(0))
        found = torch.stack(rows)  # [batches, V]
        means.append(found.mean(0))
        covariances.append(found.t().cov() / BATCHES)
    return Sampled(torch.stack(means), torch.stack(covariances))


def batch_gradient(loss: Loss, teacher: Tensor, student: Tensor, tokens: Tensor) -> Tensor:
    """To the student's logits of each of B rows of one token, [B, V]."""
    logits = student.expand(len(tokens), 1, -1).clone().requires_grad_()
    teachers = teacher.expand(len(tokens), 1, -1)
    mask = torch.ones(len(tokens), 1, dtype=torch.bool)
    value = loss.of_tokens(logits, teachers, tokens[:, None], mask)
    if not value.requires_grad:
        return torch.zeros_like(logits)[:, 0]
    (found,) = torch.autograd.grad(value, logits)
    return found[:, 0]
