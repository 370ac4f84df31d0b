"""Where a loss ends: its gradient flow on one softmax, followed until it rests or drifts.

A loss whose expected gradient vanishes at the teacher need not lead there: its flow is followed
from a flat student and from a collapsed one, and what it ends at is measured.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kd_lab.check.forms import Loss, expected_gradient
from kd_lab.check.situations import situations
from kd_lab.divergences import forward_kl, reverse_kl

STEPS = 200
WORDS = 10  # fewer than elsewhere: a sampled loss is called once a word and step
TOP = 4  # the teacher's likeliest words, which a loss of top k sees; the tail is the others
RESTS = 1e-2  # the flow's last speed by its first: it rests below
IS_TEACHER = 1e-3  # nats: a top k with a tail ends 0.007 beside it, its tail's shape left open


@dataclass(frozen=True)
class End:
    """Where a flow ends, from one start.

    Attributes:
        start: the student's name.
        forward_kl: D(p‖q) at the end, nats.
        reverse_kl: D(q‖p) at the end, nats.
        tail: the student's mass outside of the teacher's likeliest words.
        teacher_tail: the teacher's own mass there.
        rests: whether the flow has come to rest; else it still drifts.
    """

    start: str
    forward_kl: float
    reverse_kl: float
    tail: float
    teacher_tail: float
    rests: bool

    @property
    def is_teacher(self) -> bool:
        """Whether the student has become the teacher."""
        return max(self.forward_kl, self.reverse_kl) < IS_TEACHER

    @property
    def words(self) -> str:
        """One line."""
        if not (math.isfinite(self.forward_kl) and math.isfinite(self.reverse_kl)):
            return f"from {self.start}: it leaves the numbers"
        where = "at the teacher" if self.is_teacher else "elsewhere"
        moves = "rests" if self.rests else "still drifts"
        return (
            f"from {self.start}: {moves} {where}; D(p‖q) {self.forward_kl:.2g}, D(q‖p) "
            f"{self.reverse_kl:.2g} nats, tail {self.tail:.2g} "
            f"(the teacher's {self.teacher_tail:.2g})"
        )


def follow(loss: Loss, seed: int = 0) -> list[End]:
    """The ends of a loss's flow from the first teacher's flat and collapsed students."""
    at, loss = situations(seed, WORDS), replace(loss, topk=TOP)
    ends = []
    for name in ("far and flat", "collapsed on a mode"):
        i = at.names.index(name)
        teacher, student = at.teacher_logits[i], at.student_logits[i].clone()
        optimizer = torch.optim.Adam([student])
        speeds = []
        for step in range(STEPS):
            # Adam follows the signs of a gradient however small it is; the rate ends at nothing.
            optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / STEPS)
            student.grad = expected_gradient(loss, teacher, student, int(at.targets[i]))
            speeds.append(float(student.grad.norm()))
            optimizer.step()
            if not student.isfinite().all():
                break
        ends.append(_end(name, teacher.log_softmax(-1), student.log_softmax(-1), speeds))
    return ends


def _end(start: str, p: Tensor, q: Tensor, speeds: list[float]) -> End:
    tail = p.argsort(descending=True)[TOP:]
    return End(
        start,
        float(forward_kl(p, q)),
        float(reverse_kl(p, q)),
        float(q[tail].exp().sum()),
        float(p[tail].exp().sum()),
        rests=speeds[-1] <= RESTS * max(speeds),
    )
