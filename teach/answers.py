"""Answers to the problem set, for lecturers."""

import torch
from torch import Tensor


def forward_kl(p: Tensor, q: Tensor) -> Tensor:
    """1. The mask keeps 0·log 0 out; p·log(p/0) is infinite by itself."""
    terms = p * (p.log() - q.log())
    return torch.where(p > 0, terms, 0).sum(-1)


def reverse_kl_gradient(p: Tensor, z: Tensor) -> Tensor:
    """2. q·(log(q/p) - D(q‖p))."""
    log_ratio = z.log_softmax(-1) - p.log()
    q = z.softmax(-1)
    return q * (log_ratio - (q * log_ratio).sum())


def loss_at_temperature(t: Tensor, z: Tensor, temperature: float) -> Tensor:
    """3. Both logits are divided by T, and T² restores the gradient's size."""
    t_logp, z_logp = (t / temperature).log_softmax(-1), (z / temperature).log_softmax(-1)
    return temperature**2 * (t_logp.exp() * (t_logp - z_logp)).sum()


def mean_over_trained_tokens(values: list[Tensor], labels: list[Tensor]) -> Tensor:
    """4. One sum over one count: a mean of means would weigh short micro-batches too much."""
    trained = [label != -100 for label in labels]
    total = torch.stack([value[mask].sum() for value, mask in zip(values, trained, strict=True)])
    return total.sum() / sum(int(mask.sum()) for mask in trained)


def estimates(p_logp: Tensor, q_logp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """5. With r = log p - log q."""
    r = p_logp - q_logp
    return -r, r**2 / 2, r.exp() - 1 - r


def topk_forward_kl(p_top: Tensor, q: Tensor, ids: Tensor) -> Tensor:
    """6. Both distributions have k + 1 outcomes."""
    q_top = q[ids]
    p_all = torch.cat([p_top, 1 - p_top.sum(0, keepdim=True)])
    q_all = torch.cat([q_top, 1 - q_top.sum(0, keepdim=True)])
    return (p_all * (p_all / q_all).log()).sum()


def shared_log_probabilities(z: Tensor, vocabulary: int) -> Tensor:
    """7. Cut first, then normalise: padding must not take part in the softmax."""
    return z[..., :vocabulary].log_softmax(-1)


def divergence_of_answers(
    p_first: Tensor, p_second: Tensor, q_first: Tensor, q_second: Tensor
) -> Tensor:
    """8. The second token's KL is averaged over prefixes of the teacher."""
    second = (p_second * (p_second / q_second).log()).sum(-1)  # [V]
    return (p_first * (p_first / q_first).log()).sum() + (p_first * second).sum()


def best_gaussian(weights: Tensor, means: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """9. Maximum likelihood: the mixture's own mean and variance."""
    mean = (weights * means).sum()
    variance = (weights * (widths**2 + means**2)).sum() - mean**2
    return mean, variance.sqrt()
