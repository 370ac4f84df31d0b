"""Two models so small that every answer can be counted, and equation 4 of the post checked exactly.

A model here is its next-word distributions: at position t one for each of the V^t prefixes. All
answers have the same length. For whole answers y, teacher p and student q the equation says

    D(p(y)‖q(y)) = Σ_t E[ D(p(· | y_<t) ‖ q(· | y_<t)) ],    the mean over prefixes y_<t ~ p.

For reverse KL it says the same, with prefixes that the student writes.
"""

import torch
from torch import Tensor

from kd_lab.divergences import Divergence

# At t: log-probabilities of the next word after each prefix, [V^t, V].
Distributions = list[Tensor]


def random_distributions(
    words: int, length: int, seed: int, sharpness: float = 1.5
) -> Distributions:
    """A model with random next-word distributions, in float64.

    Args:
        words: V, the size of the vocabulary.
        length: the words of every answer.
        sharpness: standard deviation of the logits.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = [(words**t, words) for t in range(length)]
    logits = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [torch.log_softmax(sharpness * one, dim=-1) for one in logits]


def prefix_logp(distributions: Distributions) -> list[Tensor]:
    """Log-probability of each prefix of t = 0, 1, ... words, [V^t]; the last is of answers."""
    logp = [distributions[0].new_zeros(1)]
    for distribution in distributions:
        logp.append((logp[-1][:, None] + distribution).flatten())
    return logp


def divergence_of_answers(
    divergence: Divergence, teacher: Distributions, student: Distributions
) -> float:
    """The divergence between the two distributions of whole answers, over all V^T; nats."""
    return divergence(prefix_logp(teacher)[-1], prefix_logp(student)[-1]).item()


def divergence_by_position(
    divergence: Divergence, teacher: Distributions, student: Distributions, writer: Distributions
) -> Tensor:
    """The mean next-word divergence at each position over the writer's prefixes, [T]; nats."""
    means = [
        (prefix.exp() * divergence(p, q)).sum()
        for prefix, p, q in zip(prefix_logp(writer)[:-1], teacher, student, strict=True)
    ]
    return torch.stack(means)
