"""The mathematics of distillation: how far a student q is from its teacher p at one position.

Every function takes log-probabilities of shape [..., V] and returns nats of shape [...]. p is the
teacher and comes first: ``forward_kl(teacher_logp, student_logp)`` reads as D(p‖q). float32 and
float64 are computed as they are; bfloat16 and float16 are widened to float32, which comes back.

Two habits hold everywhere in this file.

*Zeros are zeros.* A log-probability of -inf is a probability of exactly 0 and adds what the limit
says: 0·log(0/q) = 0, and p·log(p/0) = inf. No epsilon stands inside a logarithm.

*Differences are summed, sums are not subtracted.* For distributions, D(a‖b) = Σ a·log(a/b) is also
Σ [a·log(a/b) - a + b], since both sum to one. The second form (the generalised KL, or I-divergence)
has no negative term and no first-order sensitivity to the rounding of a log-softmax, so that a
divergence of 1e-6 nats over 151,936 words is still read off correctly in float32.
"""

import inspect
import math
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

import torch
from torch import Tensor

from kd_lab.head_mask import head_mask

Divergence = Callable[[Tensor, Tensor], Tensor]

# A skewed KL of a larger alpha, below 1, is computed in float64. Its mixture is nearly the other
# distribution, and float32 would leave its gradient as few digits as (1 - alpha)² has.
NEARLY_ONE = 0.9


def forward_kl(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    """D(p‖q) = Σ p·log(p/q): large where the teacher is likely and the student is not.

    Args:
        teacher_logp, student_logp: log-probabilities, [..., V].
    Returns:
        nats, [...]; inf where q = 0 and p > 0.
    """
    return _relative_entropy(_widen(teacher_logp), _widen(student_logp))


def reverse_kl(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    """D(q‖p) = Σ q·log(q/p): large where the student is likely and the teacher is not.

    Args:
        teacher_logp, student_logp: log-probabilities, [..., V].
    Returns:
        nats, [...]; inf where p = 0 and q > 0.
    """
    return _relative_entropy(_widen(student_logp), _widen(teacher_logp))


def jensen_shannon(teacher_logp: Tensor, student_logp: Tensor, beta: float = 0.5) -> Tensor:
    """Generalised Jensen-Shannon: β·D(p‖m) + (1-β)·D(q‖m) with m = β·p + (1-β)·q.

    GKD, arXiv 2306.13649, Eq. 1. Its value goes to 0 as β goes to 0 or 1; the KLs are the limits of
    the *ratio*: JSD(β)/β -> D(p‖q) as β -> 0, JSD(β)/(1-β) -> D(q‖p) as β -> 1.

    Args:
        teacher_logp, student_logp: log-probabilities, [..., V].
        beta: the teacher's share of the mixture, in [0, 1].
    Returns:
        nats, [...], at most log 2.
    Raises:
        ValueError: beta outside [0, 1].
    """
    _check_share("beta", beta)
    teacher_logp, student_logp = torch.broadcast_tensors(_widen(teacher_logp), _widen(student_logp))
    if beta in (0, 1):  # m is q or p itself, and the other term has no share, even where it is inf
        return _relative_entropy(student_logp, student_logp)
    mixture_logp = _log_mixture(teacher_logp, student_logp, beta)
    return beta * _relative_entropy(teacher_logp, mixture_logp) + (1 - beta) * _relative_entropy(
        student_logp, mixture_logp
    )


def adaptive_kl(
    teacher_logp: Tensor, student_logp: Tensor, mu: float = 0.5, crossing: str = "head"
) -> Tensor:
    """AKL: w·D(p‖q) + (1-w)·D(q‖p), weighted to where the two still differ.

    Wu et al. 2024, arXiv 2404.02657, §4.2. The head is the smallest set of the teacher's most
    likely tokens whose mass reaches ``mu``. With the gaps g_head and g_tail, Σ|p - q| over head and
    over tail, w = g_head / (g_head + g_tail): forward KL works on the head, reverse KL on the tail.
    No gradient flows through w.

    Args:
        teacher_logp, student_logp: log-probabilities, [..., V].
        mu: the teacher's mass that the head must reach, in [0, 1].
        crossing: which side the token belongs to at which the mass reaches ``mu``. ``"head"`` is
            the paper's text; ``"tail"`` is what its published code does (it keeps the tokens whose
            running mass has not passed ``mu``, and the most likely one always).
    Returns:
        nats, [...]; 0 where p = q.
    Raises:
        ValueError: mu outside [0, 1], or an unknown ``crossing``.
    """
    _check_share("mu", mu)
    if crossing not in ("head", "tail"):
        raise ValueError(f"crossing must be 'head' or 'tail', not {crossing!r}")
    teacher_logp, student_logp = torch.broadcast_tensors(_widen(teacher_logp), _widen(student_logp))
    with torch.no_grad():
        p = teacher_logp.exp()
        gap = (p - student_logp.exp()).abs()  # [..., V]
        head = head_mask(p, mu, crossing)
        head_gap = torch.where(head, gap, 0).sum(-1)  # [...]
        tail_gap = torch.where(head, 0, gap).sum(-1)
        all_gap = head_gap + tail_gap
        head_weight = torch.where(all_gap > 0, head_gap / all_gap, 0.5)
        tail_weight = torch.where(all_gap > 0, tail_gap / all_gap, 0.5)
    forward = forward_kl(teacher_logp, student_logp)
    reverse = reverse_kl(teacher_logp, student_logp)
    # A head without weight must silence an infinite D(p‖q), and 0·inf is NaN. D(q‖p) is infinite
    # only where a token of p = 0 has q > 0: a gap, and in the tail, so that it keeps its weight.
    return torch.where(head_weight > 0, head_weight * forward, 0) + tail_weight * reverse


def skew_forward_kl(teacher_logp: Tensor, student_logp: Tensor, alpha: float = 0.1) -> Tensor:
    """D(p‖α·p + (1-α)·q): forward KL, bounded (DistiLLM, arXiv 2402.03898, §3.1).

    Args:
        teacher_logp, student_logp: log-probabilities, [..., V].
        alpha: the teacher's share of the mixture, in [0, 1]; 0 is forward KL, 1 is identically 0.
    Returns:
        nats, [...], at most -log(alpha).
    Raises:
        ValueError: alpha outside [0, 1].
    """
    _check_share("alpha", alpha)
    return _skewed(_widen(teacher_logp), _widen(student_logp), alpha)


def skew_reverse_kl(teacher_logp: Tensor, student_logp: Tensor, alpha: float = 0.1) -> Tensor:
    """D(q‖(1-α)·p + α·q): reverse KL, bounded (DistiLLM, arXiv 2402.03898, §3.1).

    Args:
        teacher_logp, student_logp: log-probabilities, [..., V].
        alpha: the student's share of the mixture, in [0, 1]; 0 is reverse KL, 1 is identically 0.
    Returns:
        nats, [...], at most -log(alpha).
    Raises:
        ValueError: alpha outside [0, 1].
    """
    _check_share("alpha", alpha)
    return _skewed(_widen(student_logp), _widen(teacher_logp), alpha)


def total_variation(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    """TVD = ½·Σ|p - q|: the largest difference in probability over all events; between 0 and 1.

    Not in nats, but tied to them by Pinsker's inequality: TVD <= sqrt(D(p‖q) / 2).

    Args:
        teacher_logp, student_logp: log-probabilities, [..., V].
    Returns:
        a probability, [...].
    """
    return 0.5 * (_widen(teacher_logp).exp() - _widen(student_logp).exp()).abs().sum(-1)


def alpha_beta(
    teacher_logp: Tensor, student_logp: Tensor, alpha: float = 0.2, beta: float = 0.7
) -> Tensor:
    """Alpha-beta divergence: -1/(αβ)·Σ [p^α·q^β - α/(α+β)·p^(α+β) - β/(α+β)·q^(α+β)].

    Cichocki et al. 2011; for distillation ABKD, arXiv 2505.04560. (1, 0) is forward KL and (0, 1)
    reverse KL, (½, ½) twice Σ(√p - √q)² (Hellinger), (1, 1) half of Σ(p - q)². A smaller α weighs
    the words where p and q are farthest apart, a larger β those that the student holds likely.

    Where α or β is 0 it is the limit. ABKD's code has 1/α there in place of the limit's 1/α², which
    is the same at its ends alone. Where α + β is not 1 it is no f-divergence: to merge words, as a
    stored top k does, may raise it.

    Args:
        teacher_logp, student_logp: log-probabilities, [..., V].
        alpha, beta: the exponents of p and q, each at least 0, and not both 0.
    Returns:
        [...], nats where α + β = 1; inf where α or β is 0 as in the KL of that end.
    Raises:
        ValueError: an exponent out of its range.
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not (isinstance(value, int | float) and 0 <= value < math.inf):
            raise ValueError(f"{name} must be a number, and at least 0, not {value!r}")
    if alpha + beta == 0:
        raise ValueError("alpha and beta must not both be 0")
    teacher_logp, student_logp = torch.broadcast_tensors(_widen(teacher_logp), _widen(student_logp))
    # With d = |log(p/q)| and h(x) = (1 - exp(-x·d))/x a word adds max(p, q)^(α+β)·[h(b) -
    # exp(-b·d)·h(a)]/(α+β): a is the exponent of the larger of p and q, b that of the smaller. No
    # exponential overflows, and h(0) = d gives all limits.
    larger_logp = torch.maximum(teacher_logp, student_logp)
    log_ratio = torch.where(larger_logp > -math.inf, teacher_logp - student_logp, 0)
    distance = log_ratio.abs()
    finite = distance.clamp(max=1e30)  # exp(-inf)·inf is 0 here

    def words(of_larger: float, of_smaller: float) -> Tensor:
        there = torch.exp(-of_smaller * finite) * _decayed(finite, of_larger)
        return _decayed(distance, of_smaller) - there

    terms = torch.where(log_ratio > 0, words(alpha, beta), words(beta, alpha))
    total = alpha + beta
    return (torch.exp(total * larger_logp) * terms).sum(-1) / total


def entropy_aware_kl(teacher_logp: Tensor, student_logp: Tensor, threshold: float = 0.8) -> Tensor:
    """D(q‖p), and D(p‖q) besides where the teacher is unsure: its entropy is over ``threshold``.

    Entropy-Aware On-Policy Distillation, arXiv 2603.07079, with its threshold of 0.8 nats and its
    weight of 1. There D(p‖q) is over the teacher's 16 likeliest words; here it is over all.

    Args:
        teacher_logp, student_logp: log-probabilities, [..., V].
        threshold: nats, at least 0.
    Returns:
        nats, [...]; inf where p = 0 and q > 0, or q = 0 and an unsure teacher has p > 0.
    Raises:
        ValueError: a threshold below 0.
    """
    if not (isinstance(threshold, int | float) and threshold >= 0):
        raise ValueError(f"threshold must be a number, and at least 0, not {threshold!r}")
    teacher_logp, student_logp = _widen(teacher_logp), _widen(student_logp)
    p = teacher_logp.exp()
    entropy = -(p * torch.where(p > 0, teacher_logp, 0)).sum(-1)
    # 0·inf is NaN: what a sure teacher silences must not be multiplied.
    unsure = torch.where(entropy > threshold, forward_kl(teacher_logp, student_logp), 0)
    return reverse_kl(teacher_logp, student_logp) + unsure


DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        forward_kl,
        reverse_kl,
        jensen_shannon,
        adaptive_kl,
        skew_forward_kl,
        skew_reverse_kl,
        total_variation,
        alpha_beta,
        entropy_aware_kl,
    )
}


# As tables and pictures name them; a divergence without a short name goes by its own.
SHORT_NAMES = {
    "forward_kl": "FKL",
    "reverse_kl": "RKL",
    "jensen_shannon": "JSD",
    "adaptive_kl": "AKL",
    "skew_forward_kl": "skew FKL",
    "skew_reverse_kl": "skew RKL",
    "total_variation": "TVD",
    "alpha_beta": "AB",
    "entropy_aware_kl": "EAKL",
}


def get_divergence(name: str, **settings: float | str) -> Divergence:
    """A divergence by name, its settings bound: ``get_divergence("adaptive_kl", mu=0.4)``.

    Settings are checked here, before anything is computed with them.

    Returns:
        a callable (teacher_logp [..., V], student_logp [..., V]) -> nats [...].
    Raises:
        ValueError: an unknown name (the known ones are listed), a setting that the divergence does
            not have, or a setting out of its range.
    """
    if name not in DIVERGENCES:
        near = get_close_matches(name, DIVERGENCES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown divergence {name!r}{hint} (known: {', '.join(DIVERGENCES)})")
    function = DIVERGENCES[name]
    known = list(inspect.signature(function).parameters)[2:]
    for setting, value in settings.items():
        if setting not in known:
            raise ValueError(
                f"{name} has no setting {setting!r} (it has: {', '.join(known) or 'none'})"
            )
        if isinstance(value, bool):  # which Python counts as 0 or 1
            raise ValueError(f"{setting} must be a number, not {str(value).lower()}")
    divergence = partial(function, **settings) if settings else function
    divergence(torch.zeros(1), torch.zeros(1))  # raises if a setting is out of range
    return divergence


def _relative_entropy(a_logp: Tensor, b_logp: Tensor) -> Tensor:
    """D(a‖b), [...], as the sum of a·log(a/b) - a + b (see the top of the file)."""
    a, b = a_logp.exp(), b_logp.exp()
    # Where a is 0 the term is 0 whatever b is, and -inf - (-inf) would be NaN.
    log_ratio = torch.where(a > 0, a_logp - b_logp, 0)
    return (a * log_ratio + (b - a)).sum(-1)


def _skewed(a_logp: Tensor, b_logp: Tensor, share: float) -> Tensor:
    """D(a‖share·a + (1-share)·b), [...]."""
    dtype = torch.promote_types(a_logp.dtype, b_logp.dtype)
    if NEARLY_ONE < share < 1:
        a_logp, b_logp = a_logp.double(), b_logp.double()
    return _relative_entropy(a_logp, _log_mixture(a_logp, b_logp, share)).to(dtype)


def _decayed(distance: Tensor, rate: float) -> Tensor:
    """(1 - exp(-rate·distance)) / rate, and its limit, the distance itself, at 0."""
    return distance if rate == 0 else torch.expm1(-rate * distance) / -rate


def _log_mixture(a_logp: Tensor, b_logp: Tensor, share: float) -> Tensor:
    """log(share·a + (1-share)·b), [..., V]."""
    a_logp, b_logp = torch.broadcast_tensors(a_logp, b_logp)
    if share == 0:
        return b_logp
    if share == 1:
        return a_logp
    # logaddexp's gradient is NaN where both are -inf; exp() takes this floor to 0 just as well.
    floor = torch.finfo(torch.float32).min / 4
    return torch.logaddexp(
        a_logp.clamp(min=floor) + math.log(share), b_logp.clamp(min=floor) + math.log1p(-share)
    )


def _widen(logp: Tensor) -> Tensor:
    return logp.float() if logp.dtype in (torch.bfloat16, torch.float16) else logp


def _check_share(name: str, value: float) -> None:
    if not (isinstance(value, int | float) and 0 <= value <= 1):
        raise ValueError(f"{name} must be a number in [0, 1], not {value!r}")
