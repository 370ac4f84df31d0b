"""One softmax: the gradients that losses of sampled words and of a teacher's top k really have.

p is the teacher and q = softmax(z) the student, over V words. Everything here is a gradient to z in
closed form, so that an expectation over the words that could be sampled is a sum.

A word y drawn from q gives a gradient c_y·∇log q_y, with ∇log q_y = e_y - q. The losses differ in
c_y alone (``SAMPLED``); all of them are met under the name "reverse KL":

    k1_loss            1                            log q/p, differentiated
    k1_reward          log q/p                      the score function with the reward log p/q
    k1_baseline        log q/p - D(q‖p)             the same, less its mean (arXiv 2605.07865)
    k2_loss            log q/p                      ½(log q/p)², differentiated
    k3_loss            1 - p/q                      p/q - 1 - log p/q, differentiated
    k3_reward          p/q - 1 - log p/q            k3 as the reward of the score function
    sampled_bucket     q·(log q/p - log (1-q)/(1-p))    the KL of two buckets: y, and all others

A loss of the teacher's k likeliest words has no noise. It has to say what it does with the other
words, the tail (``TAILS``). With d_v = ∂loss/∂log q_v its gradient is d - q·Σd.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kd_lab.divergences import forward_kl, reverse_kl

# "Tomorrow there will be …"
WORDS = ("sun", "rain", "wind", "fog", "snow", "hail", "ice", "fish")
TEACHER = torch.tensor([0.40, 0.27, 0.12, 0.08, 0.06, 0.04, 0.02, 0.01], dtype=torch.float64)
STUDENTS = {
    "flat": torch.full((8,), 0.125, dtype=torch.float64),
    "near": torch.tensor([0.36, 0.29, 0.13, 0.07, 0.07, 0.05, 0.02, 0.01], dtype=torch.float64),
    "too sharp": torch.tensor(
        [0.70, 0.24, 0.035, 0.013, 0.007, 0.003, 0.001, 0.001], dtype=torch.float64
    ),
    "collapsed": torch.tensor(
        [0.02, 0.93, 0.015, 0.01, 0.01, 0.008, 0.004, 0.003], dtype=torch.float64
    ),
}
TOP = 4  # words of the teacher that are stored; WORDS are in the teacher's order
NOTHING = -100.0  # nats, for a word outside of the top k where someone gives it a fixed value
RATE = 0.4  # of gradient descent on z

Gradient = Callable[[Tensor], Tensor]  # of q [V], to z [V]


def _k3(p: Tensor, q: Tensor) -> Tensor:
    return p / q - 1 - (p / q).log()


def _bucket(p: Tensor, q: Tensor) -> Tensor:
    return q * ((q / p).log() - ((1 - q) / (1 - p)).log())


SAMPLED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "k1_loss": lambda p, q: torch.ones_like(q),
    "k1_reward": lambda p, q: (q / p).log(),
    "k1_baseline": lambda p, q: (q / p).log() - reverse_kl(p.log(), q.log()),
    "k2_loss": lambda p, q: (q / p).log(),
    "k3_loss": lambda p, q: 1 - p / q,
    "k3_reward": _k3,
    "sampled_bucket": _bucket,
}


class Top(NamedTuple):
    """What a loss of the teacher's top k has: the tail's mass apart."""

    inside: Tensor  # of the top k, bool [V]
    p: Tensor  # [V]
    q: Tensor  # [V]

    @property
    def teacher_tail(self) -> Tensor:
        """The teacher's mass outside, a scalar."""
        return self.p[~self.inside].sum()

    @property
    def student_tail(self) -> Tensor:
        """The student's mass outside, a scalar."""
        return self.q[~self.inside].sum()


# What stands for the teacher, [V], where the student is taken as it is: a word with 0 is left out.
def _cut(top: Top) -> Tensor:
    return torch.where(top.inside, top.p, 0)


def _renormalised(top: Top) -> Tensor:
    return _cut(top) / (1 - top.teacher_tail)


def _fixed(top: Top) -> Tensor:
    return torch.where(top.inside, top.p, torch.tensor(NOTHING, dtype=top.p.dtype).exp())


def _even(top: Top) -> Tensor:
    return torch.where(top.inside, top.p, top.teacher_tail / (~top.inside).sum())


AS_IT_IS = {
    "truncated": _cut,
    "clamped": _cut,
    "teacher_renormalised": _renormalised,
    "fixed": _fixed,
    "even": _even,
}
TAILS = ("bucket", "truncated", "clamped", "teacher_renormalised", "both_renormalised", "fixed",
         "even")  # fmt: skip
DIRECTIONS = ("forward_kl", "reverse_kl")


def exact_gradient(direction: str, p: Tensor, q: Tensor) -> Tensor:
    """Of D(p‖q) or D(q‖p), to z, [V]."""
    _known(direction, DIRECTIONS)
    if direction == "forward_kl":
        return q - p
    log_ratio = (q / p).log()
    return q * (log_ratio - (q * log_ratio).sum())


def word_gradients(name: str, p: Tensor, q: Tensor) -> Tensor:
    """The gradient for each word y that could be sampled, a row each, [V, V].

    Raises:
        ValueError: no estimator of this name.
    """
    _known(name, SAMPLED)
    return SAMPLED[name](p, q)[:, None] * (torch.eye(len(q), dtype=q.dtype) - q)


def expected_gradient(name: str, p: Tensor, q: Tensor) -> Tensor:
    """The mean over words drawn from q, [V]."""
    return q @ word_gradients(name, p, q)


def variance(name: str, p: Tensor, q: Tensor) -> float:
    """E‖g - E g‖² of one word's gradient g; of a mean over n words the n-th part."""
    each = word_gradients(name, p, q)
    return float(q @ (each - q @ each).square().sum(1))


def topk_gradient(tail: str, direction: str, p: Tensor, q: Tensor, k: int = TOP) -> Tensor:
    """Of a KL that knows the teacher's k likeliest words, to z, [V].

    Args:
        tail: what it does with the others, one of ``TAILS``.
        direction: one of ``DIRECTIONS``.
    Raises:
        ValueError: an unknown name.
    """
    _known(tail, TAILS)
    _known(direction, DIRECTIONS)
    inside = torch.zeros(len(p), dtype=torch.bool).scatter(0, p.topk(k).indices, True)
    top = Top(inside, p, q)
    if tail in AS_IT_IS:
        teacher = AS_IT_IS[tail](top)
        if tail == "clamped" and _sum(direction, teacher, q) <= 0:
            return torch.zeros_like(q)
        return _through_softmax(_by_log_q(direction, teacher, q), q)
    if tail == "both_renormalised":
        student = torch.where(inside, q, 0) / (1 - top.student_tail)
        by_log = _by_log_q(direction, _renormalised(top), student)
        return _through_softmax(by_log, student)  # its softmax is over the top k alone
    return _through_softmax(_bucket_by_log_q(direction, top), q)


def _through_softmax(by_log: Tensor, q: Tensor) -> Tensor:
    return by_log - q * by_log.sum()


def _by_log_q(direction: str, teacher: Tensor, q: Tensor) -> Tensor:
    """∂/∂log q of the sum over words that the teacher has, [V]."""
    if direction == "forward_kl":
        return -teacher
    return torch.where(teacher > 0, q * ((q / teacher).log() + 1), 0)


def _bucket_by_log_q(direction: str, top: Top) -> Tensor:
    share = top.q / top.student_tail  # of the bucket
    if direction == "forward_kl":
        return torch.where(top.inside, -top.p, -top.teacher_tail * share)
    ratio = torch.where(top.inside, top.q / top.p, top.student_tail / top.teacher_tail)
    return top.q * (ratio.log() + 1)


def _sum(direction: str, teacher: Tensor, q: Tensor) -> float:
    """The loss itself where words are left out: it can be below 0."""
    has = teacher > 0
    a, b = (teacher, q) if direction == "forward_kl" else (q, teacher)
    return float((a[has] * (a[has] / b[has]).log()).sum())


def descend(gradient: Gradient, q: Tensor, steps: int, rate: float = RATE) -> Tensor:
    """Gradient descent on z: the student after 0, 1, … ``steps`` steps, [steps + 1, V]."""
    z, path = q.log(), [q]
    for _ in range(steps):
        z = z - rate * gradient(z.softmax(-1))
        path.append(z.softmax(-1))
    return torch.stack(path)


def both_kls(p: Tensor, q: Tensor) -> tuple[float, float]:
    """D(p‖q) and D(q‖p), nats."""
    return float(forward_kl(p.log(), q.log())), float(reverse_kl(p.log(), q.log()))


def _known(name: str, names: object) -> None:
    known = list(names)  # type: ignore[call-overload]
    if name not in known:
        raise ValueError(f"{name!r} is none of {', '.join(known)}")
