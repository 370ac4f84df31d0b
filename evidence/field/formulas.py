"""Losses of projects that are not installed here, written anew from their code or documentation.

Each is the mean over trained tokens of what its project computes at one token.
"""

import torch
from torch import Tensor

IGNORED = -100


def k1(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """log q(y) - log p(y), differentiated."""
    return _mean(student - teacher, mask)


def k1_advantage(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """log p(y) - log q(y), in the advantage."""
    return teacher - student


def importance_weighted(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """-q(y)/q_old(y)·(log p(y) - log q(y)), the ratio alone differentiated; q_old is q."""
    ratio = (student - student.detach()).exp()
    return _mean(-ratio * (teacher - student.detach()), mask)


def k2(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Half of the squared log-ratio, differentiated."""
    return _mean(0.5 * (student - teacher) ** 2, mask)


def k3(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """r - 1 - log r with r = p(y)/q(y), differentiated; log r within ±20, the result within ±10."""
    log_ratio = (teacher - student).clamp(-20, 20)
    return _mean((log_ratio.exp() - 1 - log_ratio).clamp(-10, 10), mask)


def unclamped_k3(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """r - 1 - log r with r = p(y)/q(y), differentiated; masked log-ratios are 0."""
    log_ratio = torch.where(mask, teacher - student, 0)
    return _mean(torch.expm1(log_ratio) - log_ratio, mask)


def k3_advantage(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """-(r - 1 - log r), in the advantage."""
    log_ratio = teacher - student
    return log_ratio - torch.expm1(log_ratio)


def k1_to_go(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """log p - log q of a word and of all that come after it, in the advantage."""
    return ((teacher - student) * mask).flip(-1).cumsum(-1).flip(-1)


def absolute(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """|log q(y) - log p(y)|, differentiated."""
    return _mean((student - teacher).abs(), mask)


def prefix_penalty(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    *,
    student_logits: Tensor,
    teacher_logits: Tensor,
    k: int = 6,
) -> Tensor:
    """Minus the top-k reverse KL of a prefix, in the advantage of its next token."""
    p, q = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)
    top = q.topk(k).indices
    p, q = p.gather(-1, top), q.gather(-1, top)
    return -(q.exp() * (q - p)).sum(-1)


def own_likelihood(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy on the student's own samples."""
    return _mean(-student, mask)


def truncated_forward(student: Tensor, top: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    """Σ over the top k of p·log(p/q), not below 0 at any token."""
    each = (top.exp() * (top - _at(student, tokens))).sum(-1)
    return _mean(each.clamp(min=0), labels != IGNORED)


def truncated_reverse(student: Tensor, top: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    """Σ over the top k of q·log(q/p)."""
    q = _at(student, tokens)
    return _mean((q.exp() * (q - top)).sum(-1), labels != IGNORED)


def teacher_renormalised(student: Tensor, top: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    """Forward KL; the teacher's top k sum to one, the student's do not."""
    p = top.log_softmax(-1)
    return _mean((p.exp() * (p - _at(student, tokens))).sum(-1), labels != IGNORED)


def both_renormalised(
    student: Tensor, top: Tensor, tokens: Tensor, labels: Tensor, reverse: bool = False
) -> Tensor:
    """A KL of the top k, which sum to one in both models."""
    p, q = top.log_softmax(-1), _at(student, tokens).log_softmax(-1)
    p, q = (q, p) if reverse else (p, q)
    return _mean((p.exp() * (p - q)).sum(-1), labels != IGNORED)


def fixed_outside(student: Tensor, top: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    """Reverse KL; words outside of the top k have -100 nats."""
    q = student.log_softmax(-1)
    p = torch.full_like(q, -100.0).scatter(-1, tokens, top)
    return _mean((q.exp() * (q - p)).sum(-1), labels != IGNORED)


def uniform_outside(student: Tensor, top: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    """Forward KL; words outside of the top k share what the teacher has left."""
    q = student.log_softmax(-1)
    words = q.shape[-1] - tokens.shape[-1]
    rest = torch.log1p(-top.exp().sum(-1, keepdim=True)) - torch.tensor(float(words)).log()
    p = rest.expand_as(q).scatter(-1, tokens, top)
    return _mean((p.exp() * (p - q)).sum(-1), labels != IGNORED)


def skew_reverse(student: Tensor, teacher: Tensor, labels: Tensor, lam: float = 0.1) -> Tensor:
    """DistiLLM's skew reverse KL: D(q‖(1-λ)p + λq)."""
    p, q = teacher.softmax(-1), student.softmax(-1)
    mixture = (1 - lam) * p + lam * q
    return _mean((q * (q.log() - mixture.log())).sum(-1), labels != IGNORED)


def _at(student: Tensor, tokens: Tensor) -> Tensor:
    return student.log_softmax(-1).gather(-1, tokens)


def _mean(each: Tensor, mask: Tensor) -> Tensor:
    return (each * mask).sum() / mask.sum()
