"""Checks of notebook 9's exercises, each against something independent of a solution."""

from collections.abc import Callable

import torch
from torch import Tensor

from book.exercises.expected import expect, written
from toy import one_softmax as S

Loss = Callable[[Tensor, Tensor], Tensor]


def mended_truncation(answer: Loss) -> None:
    """Truncated forward KL and one more term, of p and q at the k stored words, [k] each.

    The student has more words than these. Descent from a flat student must end with q = p on the
    stored ones.
    """
    p = S.TEACHER
    z = S.STUDENTS["flat"].log().requires_grad_()
    for _ in range(600):
        loss = written(answer(p[: S.TOP], z.softmax(-1)[: S.TOP]))
        (gradient,) = torch.autograd.grad(loss, z)
        z = (z - 2 * gradient).detach().requires_grad_()
    q = z.detach().softmax(-1)
    truncated = p[: S.TOP] / p[: S.TOP].sum()
    where = "probabilities of the stored words, where descent from a flat student ends"
    mistakes = {"the tail is empty there": truncated}
    expect(q[: S.TOP], p[: S.TOP], where, mistakes, rtol=1e-2)
