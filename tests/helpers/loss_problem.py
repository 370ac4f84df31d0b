"""What the tests of the fused losses share: a small problem, and the definition to hold against."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kd_lab.divergences import DIVERGENCES

EVERY_DIVERGENCE = pytest.mark.parametrize("name", list(DIVERGENCES))


def problem(
    n: int = 37, rows: int = 101, teacher_rows: int = 101, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states and heads of a student (width 24) and a teacher (40); labels, a third unset."""
    generator = torch.Generator().manual_seed(n + rows)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, min(rows, teacher_rows), (n,), generator=generator)
    labels[::3] = -100
    tensors = draw(n, 24), draw(rows, 24) / 4, draw(n, 40), draw(teacher_rows, 40) / 5
    student_hidden, student_head, teacher_hidden, teacher_head = (t.to(dtype) for t in tensors)
    student_hidden.requires_grad_()
    student_head.requires_grad_()
    return student_hidden, student_head, teacher_hidden, teacher_head, labels


def dense(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    labels: Tensor,
    divergence,
    alpha: float = 0.5,
    temperature: float = 1.0,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition, in float64, with whole logits."""
    rows = min(len(student_head), len(teacher_head))
    trained = labels != -100
    student = student_hidden.double()[trained] @ student_head.double()[:rows].t()
    teacher = teacher_hidden.double()[trained] @ teacher_head.double()[:rows].t()
    if student_bias is not None:
        student = student + student_bias.double()[:rows]
    if teacher_bias is not None:
        teacher = teacher + teacher_bias.double()[:rows]
    per_token = divergence(
        (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    )
    cross_entropy = F.cross_entropy(student, labels[trained])
    loss = alpha * temperature**2 * per_token.mean() + (1 - alpha) * cross_entropy
    return loss, per_token.mean(), cross_entropy


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


class Products(TorchDispatchMode):
    """Counts matrix products, and the rows of the student's hidden states that the first sees."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.positions = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            if self.count == 0:
                self.positions = args[-2].shape[0]
            self.count += 1
        return func(*args, **(kwargs or {}))
