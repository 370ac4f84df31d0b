"""Solutions of the exercises that have a check. site/solutions.md derives them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from toy.mixture_fit import POST_TARGET, fit


def reverse_kl_gradient(p: Tensor, z: Tensor) -> Tensor:
    """01.1. q·(log(q/p) - D(q‖p)), for q = softmax(z)."""
    q = z.softmax(-1)
    log_ratio = (q / p).log()
    return q * (log_ratio - (q * log_ratio).sum())


def costs_of_the_modes() -> tuple[float, float]:
    """01.3. On a mode of weight w reverse KL is -log w."""
    return -math.log(0.9), -math.log(0.1)


def where_it_jumps() -> float:
    """01.4. Two minima trade places between 0.22 and 0.24."""
    return 0.23


def reverse_kl_of_torch(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    """01.5. ``kl_div(input, target)`` is D(target‖input): the student is the target."""
    return torch.nn.functional.kl_div(teacher_logp, student_logp, log_target=True, reduction="sum")


def best_gaussian(weights: Tensor, means: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """02.1. The mixture's own mean and variance."""
    mean = (weights * means).sum()
    variance = (weights * (widths**2 + means**2)).sum() - mean**2
    return mean, variance.sqrt()


def variance_when_parted(d: float, sigma: float) -> float:
    """02.2. Parting by ±d adds d² to the variance."""
    return sigma**2 + d**2


def steps_of_others() -> tuple[int | None, ...]:
    """02.3. Steps of the dual fit until 0.01 nats: Jensen-Shannon, then adaptive KL."""
    fits = (
        fit(POST_TARGET, [-1.0, 1.0], 5.0, divergence=name, steps=400)
        for name in ("jensen_shannon", "adaptive_kl")
    )
    return tuple(trajectory.steps_to(0.01)[0] for trajectory in fits)


def when_equals_arrive() -> float:
    """02.4. Equal Gaussians get equal gradients, and never part."""
    return math.inf


def distance_at_the_start(rank: int) -> float:
    """03.2. Each of 64·64 entries has variance r."""
    return 64 * math.sqrt(rank)


def divergence_of_answers(
    p_first: Tensor, p_second: Tensor, q_first: Tensor, q_second: Tensor
) -> Tensor:
    """04.1. The second word's KL is averaged over prefixes of the teacher."""
    second = (p_second * (p_second / q_second).log()).sum(-1)  # [V]
    return (p_first * (p_first / q_first).log()).sum() + (p_first * second).sum()


def two_estimates() -> tuple[float, float]:
    """04.4. The log-ratio is log 2 for both answers; the sum has half of log 3 on either side."""
    return 0.0, (math.log(3) / 2) ** 2


def pushes(q: float, r: float) -> tuple[float, float]:
    """05.1. Forward KL pushes by q - p, and reverse KL by q·log(q/p)."""
    return q * (1 - 1 / r), q * math.log(r)


def warm_limit(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """05.3. Half the variance of the logits' difference."""
    return (teacher_logits - student_logits).var(correction=0) / 2


def break_even(unbiased: float, biased: float, bias: float) -> float:
    """06.3. Equal errors: v₁/n = v₂/n + b²."""
    return (unbiased - biased) / bias**2


def memory_of_the_loss(chunk: int, words: int) -> float:
    """07.1. A tile of the student's logits, and half a tile of the teacher's; in MiB."""
    return 1.5 * chunk * words * 4 / 2**20


def left_out_by_the_bucket(p: Tensor, q: Tensor, k: int) -> Tensor:
    """07.3. The chain rule of KL: the teacher's mass in the tail times the KL within it."""
    mass = p[k:].sum()
    p_tail, q_tail = p[k:] / mass, q[k:] / q[k:].sum()
    return mass * (p_tail * (p_tail / q_tail).log()).sum()


def words_for_the_same_bytes() -> int:
    """07.4. 6·k + 4 = 7,168."""
    return (7_168 - 4) // 6


def fits() -> tuple[bool, bool]:
    """08.1. With ddp it does not fit, with zero3 it does."""
    return False, True


def largest_teacher() -> tuple[int, int]:
    """08.2. The 72B; about seven times the hours."""
    return 72, 7


def what_the_cache_saves() -> tuple[float, float]:
    """08.3. In GB: the teacher in memory, and 388 bytes for each trained token on disk."""
    return 16.0, 20_000 * 1_200 * 0.8 * 388 / 1e9


def mended_truncation(p: Tensor, q: Tensor) -> Tensor:
    """09.3. The student's mass on the stored words is added."""
    return (p * (p / q).log()).sum() + q.sum()


# An exercise -> its answer, or a function that computes it.
SOLUTIONS: dict[str, Callable[..., Any]] = {
    "01.1": reverse_kl_gradient,
    "01.3": costs_of_the_modes,
    "01.4": where_it_jumps,
    "01.5": reverse_kl_of_torch,
    "02.1": best_gaussian,
    "02.2": variance_when_parted,
    "02.3": steps_of_others,
    "02.4": when_equals_arrive,
    "03.2": distance_at_the_start,
    "04.1": divergence_of_answers,
    "04.4": two_estimates,
    "05.1": pushes,
    "05.3": warm_limit,
    "06.3": break_even,
    "07.1": memory_of_the_loss,
    "07.3": left_out_by_the_bucket,
    "07.4": words_for_the_same_bytes,
    "08.1": fits,
    "08.2": largest_teacher,
    "08.3": what_the_cache_saves,
    "09.3": mended_truncation,
}
