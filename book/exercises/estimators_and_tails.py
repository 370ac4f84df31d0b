"""Checks of notebook 9's exercises, each against something independent of a solution."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from book.exercises.expected import expect, written
from toy import one_softmax as S

LOG_RATIO = math.log(1e6)  # of two probabilities of a word
Loss = Callable[[Tensor, Tensor], Tensor]


def mended_truncation(answer: Loss) -> None:
    """Truncated forward KL and one more term, of p and q at the k stored words, [k] each.

    The student has more words than these. The loss must grow as truncated forward KL does where a
    stored word vanishes. Descent from a flat student must end with q = p on the stored ones.
    """
    p = S.TEACHER
    vanishing = S.STUDENTS["flat"][: S.TOP].repeat(2, 1)
    vanishing[:, 0] = torch.tensor([1e-6, 1e-12])
    losses = [torch.as_tensor(written(answer(p[: S.TOP], q))) for q in vanishing]
    where = "what the loss gains as q of the first word falls from 1e-6 to 1e-12"
    mistakes: dict[str, Tensor | float] = {"there is no truncated forward KL in it": 0.0}
    expect(
        round(float(losses[1] - losses[0]), 3), round(float(p[0]) * LOG_RATIO, 3), where, mistakes
    )

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
