"""Hidden states and LM heads of Qwen2.5's sizes whose distributions are as a trained model's.

Logits reach 20 to 25. The teacher's hidden states contain the student's, and its head the student's
head: the two differ by noise alone, whose size sets the divergence.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.machine import Machine

SCALE = 5.0  # standard deviation of a logit: the highest of 151,665 is 4.5 of them


class Sizes(NamedTuple):
    """The heads' rows and widths, and how many rows both models share."""

    vocabulary: int
    student_rows: int
    teacher_rows: int
    student_width: int
    teacher_width: int


QWEN = Sizes(151_665, 151_936, 152_064, 1536, 3584)  # 1.5B and 7B
SMALL = Sizes(997, 1000, 1024, 24, 40)


def sizes(machine: Machine) -> Sizes:
    """Those of a check: Qwen2.5's on a GPU."""
    return QWEN if machine.is_gpu else SMALL


@dataclass
class Problem:
    """What the loss takes; no gradient is asked for yet."""

    student_hidden: Tensor  # [N, H_s]
    student_head: Tensor  # [V, H_s]
    teacher_hidden: Tensor  # [N, H_t]
    teacher_head: Tensor  # [V', H_t]
    labels: Tensor  # [N], all trained
    vocabulary: int

    @classmethod
    def of(
        cls, machine: Machine, tokens: int, noise: float, seed: int = 0, sized: Sizes | None = None
    ) -> "Problem":
        """A problem in float32.

        Args:
            noise: standard deviation of the teacher's logits around the student's; 0.4 is about
                0.08 nats of forward KL, 0.15 about 0.011, 0.045 about 0.001.
        """
        of = sized or sizes(machine)
        generator = torch.Generator(machine.device).manual_seed(seed)

        def normal(rows: int, width: int, scale: float) -> Tensor:
            drawn = torch.randn(rows, width, generator=generator, device=machine.device)
            return drawn.mul_(scale / width**0.5)

        own, more = of.student_width, of.teacher_width - of.student_width
        hidden = normal(tokens, own, own**0.5)
        head = normal(of.student_rows, own, SCALE)
        beside = normal(of.teacher_rows - of.student_rows, own, SCALE)
        rows = torch.cat([head, beside])
        teacher_head = torch.cat([rows, normal(of.teacher_rows, more, noise)], 1)
        teacher_hidden = torch.cat([hidden, normal(tokens, more, more**0.5)], 1)
        labels = torch.randint(
            0, of.vocabulary, (tokens,), generator=generator, device=machine.device
        )
        return cls(hidden, head, teacher_hidden, teacher_head, labels, of.vocabulary)

    def to(self, dtype: torch.dtype) -> "Problem":
        """The same with all numbers rounded to a dtype."""
        tensors = (self.student_hidden, self.student_head, self.teacher_hidden, self.teacher_head)
        return Problem(*(part.to(dtype) for part in tensors), self.labels, self.vocabulary)

    def with_gradients(self) -> "Problem":
        """The same numbers; the student's tensors ask for gradients and have none yet."""
        student = (
            part.detach().requires_grad_() for part in (self.student_hidden, self.student_head)
        )
        return Problem(
            *student, self.teacher_hidden, self.teacher_head, self.labels, self.vocabulary
        )

    def logits(self) -> tuple[Tensor, Tensor]:
        """Both models' logits over the shared vocabulary, in the problem's own dtype, [N, V]."""
        rows = slice(self.vocabulary)
        return (
            self.student_hidden @ self.student_head[rows].t(),
            self.teacher_hidden @ self.teacher_head[rows].t(),
        )


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of ``expected``, in float64."""
    expected = expected.double()
    return ((found.double() - expected).norm() / expected.norm()).item()
