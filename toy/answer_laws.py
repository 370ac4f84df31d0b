"""Two models so small that every answer can be counted, and equation 4 of the post checked exactly.

A model here is its next-word laws: at position t one law for each of the V^t prefixes. All answers
have the same length. With p the teacher and q the student the equation says, of whole answers y,

    D(p(y)‖q(y)) = Σ_t E[ D(p(· | y_<t) ‖ q(· | y_<t)) ],    the mean over prefixes y_<t ~ p,

and of reverse KL the same with prefixes that the student writes.
"""

import torch
from torch import Tensor

from kd_lab.divergences import Divergence

Laws = list[Tensor]  # at t: log-probabilities of the next word after each prefix, [V^t, V]


def random_laws(words: int, length: int, seed: int, sharpness: float = 1.5) -> Laws:
    """A model with random next-word laws, in float64.

    Args:
        words: V, the size of the vocabulary.
        length: of every answer.
        sharpness: standard deviation of the logits.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = [(words**t, words) for t in range(length)]
    logits = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [torch.log_softmax(sharpness * one, dim=-1) for one in logits]


def prefix_logp(laws: Laws) -> list[Tensor]:
    """Log-probability of each prefix of 0, 1, ... words, and last of each answer, [V^t] each."""
    logp = [laws[0].new_zeros(1)]
    for law in laws:
        logp.append((logp[-1][:, None] + law).flatten())
    return logp


def divergence_of_answers(divergence: Divergence, teacher: Laws, student: Laws) -> float:
    """Between the two laws of whole answers, summed over all V^T of them; nats."""
    return divergence(prefix_logp(teacher)[-1], prefix_logp(student)[-1]).item()


def divergence_by_position(
    divergence: Divergence, teacher: Laws, student: Laws, writer: Laws
) -> Tensor:
    """The mean next-word divergence at each position over the prefixes of a writer, [T]; nats."""
    means = [
        (prefix.exp() * divergence(p, q)).sum()
        for prefix, p, q in zip(prefix_logp(writer)[:-1], teacher, student, strict=True)
    ]
    return torch.stack(means)
