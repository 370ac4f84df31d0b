"""MiniLLM's policy gradient of the sequence-level reverse KL, as weights for the fused loss.

The loss is D(q‖p) between two distributions of whole answers y = y_1 … y_T. The reward of a token
is r_t = log p(y_t | y_<t) - log q(y_t | y_<t); R_{t+1} = r_{t+1} + … + r_T is still to come. The
gradient is then (Gu et al. 2023, arXiv 2306.08543, section 2.2)

    ∇D(q‖p) = E_{y~q} Σ_t [ ∇ KL(q(· | y_<t) ‖ p(· | y_<t))  -  R_{t+1} · ∇ log q(y_t | y_<t) ]
                            single step: over all tokens         long: the score function

The first part is the reverse KL of the next token at prefixes that the student wrote. The second is
a cross-entropy on the written tokens with R_{t+1} as weights. It teaches the student to avoid
tokens after which it will go wrong. The first part alone is biased by exactly this term. So both
are one call of the loss with a weight at each position:

    w_D · reverse KL + w_C · cross-entropy,        w_D = 1,  w_C = R_{t+1}

Answers may be written by a mixture that keeps the student near the teacher's answers,
p̃ = a·p + (1-a)·q. The expectation over q is then one over p̃, with each term times its product of
q(y_s)/p̃(y_s). The single step of t does not depend on y_t: its product is over s < t. A later
reward r_u depends on all of y_1 … y_u: its product is over s ≤ u.

These products give an unbiased gradient, but their variance explodes with length. MiniLLM keeps
only the current token's factor q(y_t)/p̃(y_t), which is at most 1/(1-a). From the second token on
the gradient is then biased. (Using the product up to t for all of R_{t+1} would be biased too: the
later tokens also came from p̃.) On the single step this factor has the mean 1 over y_t at every
prefix. So leaving it out there changes no expectation and only lowers the variance.

R_{t+1} grows with the number of tokens that follow. So long parts of long answers would outweigh
all else; ``length_normalised`` divides by that number. This, clipped rewards and clipped ratios
trade bias for variance. Without the three, and with a = 0 or whole products, the weights below give
the exact gradient on average.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from kd_lab.loss.tiles import precise


class PositionWeights(NamedTuple):
    """The weights of the loss's two parts at each written token; 0 where the mask is False."""

    divergence: Tensor  # w_D of the reverse KL, [B, T]
    cross_entropy: Tensor  # w_C of -log q(y_t), [B, T]


def policy_gradient_weights(
    student_logp: Tensor,
    teacher_logp: Tensor,
    mask: Tensor,
    *,
    teacher_mix: float = 0.0,
    whole_products: bool = False,
    length_normalised: bool = True,
    reward_clip: float | None = None,
    writer_logp: Tensor | None = None,
    ratio_clip: float | None = None,
) -> PositionWeights:
    """Weights with which the fused loss has MiniLLM's gradient.

    Args:
        student_logp: log q(y_t | y_<t) of the written tokens, by the student as it is now, [B, T].
        teacher_logp: log p(y_t | y_<t), [B, T].
        mask: True at written tokens, bool [B, T]; other positions are never read.
        teacher_mix: a, the teacher's share in the distribution that the answers were written with.
        whole_products: weight by products of q/p̃ over an answer, not by the factor of y_t alone.
        length_normalised: divide R_{t+1} by the number of tokens it sums.
        reward_clip: keep each reward within ± this many nats. None: no clipping.
        writer_logp: log q(y_t | y_<t) of the writing student, if it has been updated since.
        ratio_clip: PPO's ε (Schulman et al. 2017, arXiv 1707.06347). The long part has no gradient
            where it has pushed q/q_writer out of [1-ε, 1+ε].
    Returns:
        two [B, T], float64 where the device has it: constants without gradient.
    Raises:
        ValueError: shapes or settings that do not fit.
    """
    if not student_logp.shape == teacher_logp.shape == mask.shape or mask.dim() != 2:
        raise ValueError(
            f"student_logp {list(student_logp.shape)}, teacher_logp {list(teacher_logp.shape)} and "
            f"mask {list(mask.shape)} must all be [B, T]"
        )
    if reward_clip is not None and not reward_clip > 0:
        raise ValueError(f"reward_clip must be positive, not {reward_clip}")
    if ratio_clip is not None and not 0 < ratio_clip < 1:
        raise ValueError(f"ratio_clip must lie in (0, 1), not {ratio_clip}")
    if writer_logp is None:
        writer_logp = student_logp
    student, teacher, writer = (
        logp.detach().to(precise(logp.device)).masked_fill(~mask, 0)
        for logp in (student_logp, teacher_logp, writer_logp)
    )
    rewards = teacher - student
    if reward_clip is not None:
        rewards = rewards.clamp(-reward_clip, reward_clip)
    log_factor = student - mixture_logp(writer, teacher, teacher_mix)  # q(y_t)/p̃(y_t)
    if whole_products:
        log_product = log_factor.cumsum(1)
        single = (log_product - log_factor).exp()
        long = future_rewards(log_product.exp() * rewards, mask, length_normalised)
    else:
        single = torch.ones_like(rewards)
        long = log_factor.exp() * future_rewards(rewards, mask, length_normalised)
    if ratio_clip is not None:
        ratio = (student - writer).exp()
        gone_up = (ratio > 1 + ratio_clip) & (long > 0)
        gone_down = (ratio < 1 - ratio_clip) & (long < 0)
        long = long.masked_fill(gone_up | gone_down, 0)
    return PositionWeights(single * mask, long * mask)


def future_rewards(rewards: Tensor, mask: Tensor, length_normalised: bool) -> Tensor:
    """R_{t+1}: the sum, or the mean, of the rewards of all later tokens; 0 at the last.

    The paper's Eq. 6 divides by T - t - 1, which is the number of terms if t counts from 0.

    Args:
        rewards: nats, [B, T]; mask: bool [B, T].
    Returns:
        nats, [B, T].
    """
    total = _sum_of_later(rewards * mask)
    if length_normalised:
        total = total / _sum_of_later(mask.to(rewards.dtype)).clamp(min=1)
    return total


def _sum_of_later(values: Tensor) -> Tensor:
    from_here_on = values.flip(1).cumsum(1).flip(1)
    return torch.cat([from_here_on[:, 1:], torch.zeros_like(values[:, :1])], 1)


def mixture_logp(student_logp: Tensor, teacher_logp: Tensor, teacher_mix: float) -> Tensor:
    """log(a·p + (1-a)·q), with a = ``teacher_mix`` in [0, 1); the shape of both.

    With a = 1 the student's share is 0 and q/p̃ = q/p has no bound: it is refused.
    """
    if not 0 <= teacher_mix < 1:
        raise ValueError(f"teacher_mix must lie in [0, 1), not {teacher_mix}")
    if teacher_mix == 0:
        return student_logp
    return torch.logaddexp(
        teacher_logp + math.log(teacher_mix), student_logp + math.log1p(-teacher_mix)
    )
