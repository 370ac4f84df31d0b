"""A divergence's value and its gradient to the student's logits, in closed form.

Every divergence here is a sum over the vocabulary, D = Σ f(p, q), and q = softmax(z). With
h = ∂D/∂q the gradient to the logits is

    ∂D/∂z = q·(h - Σ q·h),

so a divergence is settled by its h. The rules take the log-ratio r = log(p/q), p and q, and stay in
terms of r, which is small where the two distributions agree. A divergence without a rule goes
through autograd (tiles.py), so a new one needs no change here. Tests hold every rule against it.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from kd_lab import divergences
from kd_lab.divergences import Divergence
from kd_lab.head_mask import head_mask

# (log_ratio, p, q, **settings), each [R, V] -> (value [R], gradient [R, V]).
# A rule may overwrite log_ratio and p; q must come out as it went in.
Rule = Callable[..., tuple[Tensor, Tensor]]

# exp() of a larger log-ratio overflows float32; beyond it one of p and q is 0 for all purposes.
MAX_LOG_RATIO = 80.0
# float32 takes 1 - share for 1 where a share is small, and a word of p ≪ q has that share alone.
SMALL_SHARE = 1e-3


def closed_form(divergence: Divergence) -> Rule | None:
    """The rule of a divergence, its settings bound; None if it has none.

    Args:
        divergence: a function of ``kd_lab.divergences``, or what ``get_divergence`` returns.
    """
    if isinstance(divergence, partial) and not divergence.args:
        rule, settings = RULES.get(divergence.func), divergence.keywords
        share = settings.get(SHARES.get(divergence.func, ""), 0.5)
        is_skew = divergence.func is not divergences.jensen_shannon
        is_near_one = is_skew and divergences.NEARLY_ONE < share < 1
        if rule and (0 < min(share, 1 - share) < SMALL_SHARE or is_near_one):
            return partial(_in_float64, partial(rule, **settings))
        return rule and partial(rule, **settings)
    return RULES.get(divergence)


def _in_float64(rule: Rule, log_ratio: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    value, gradient = rule(log_ratio.double(), p.double(), q.double())
    return value.to(q), gradient.to(q)


def _forward_kl(log_ratio: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    value = log_ratio.mul_(p).sum(-1)
    gradient = torch.sub(q, p, out=log_ratio)  # h = -p/q
    return value + gradient.sum(-1), gradient


def _reverse_kl(log_ratio: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    excess = p.sub_(q).sum(-1)  # Σ p - q: 0 but for rounding, which it takes out of the value
    gradient = torch.mul(log_ratio, q, out=p).neg_()
    kl = gradient.sum(-1)
    gradient.addcmul_(q, kl[:, None], value=-1)  # h = log(q/p), up to a constant
    return kl + excess, gradient


def _jensen_shannon(
    log_ratio: Tensor, p: Tensor, q: Tensor, beta: float = 0.5
) -> tuple[Tensor, Tensor]:
    if beta in (0, 1):
        return torch.zeros_like(q[:, 0]), torch.zeros_like(q)
    # log(m/q), with m = βp + (1-β)q
    over_q = torch.expm1(log_ratio.clamp_(-MAX_LOG_RATIO, MAX_LOG_RATIO)).mul_(beta).log1p_()
    to_teacher = log_ratio.sub_(over_q).mul_(p).sum(-1)  # Σ p·log(p/m)
    gradient = over_q.mul_(q).neg_()  # h = (1-β)·log(q/m)
    to_student = gradient.sum(-1)
    gradient.addcmul_(q, to_student[:, None], value=-1).mul_(1 - beta)
    return beta * to_teacher + (1 - beta) * to_student, gradient


def _skew_forward_kl(
    log_ratio: Tensor, p: Tensor, q: Tensor, alpha: float = 0.1
) -> tuple[Tensor, Tensor]:
    if alpha == 0:
        return _forward_kl(log_ratio, p, q)
    # m/p - 1, with m = αp + (1-α)q
    m_over_p = log_ratio.clamp_(-MAX_LOG_RATIO, MAX_LOG_RATIO).neg_().expm1_().mul_(1 - alpha)
    excess = (q - p).sum(-1).mul_(1 - alpha)
    value = p.mul_(torch.log1p(m_over_p)).sum(-1).neg_() + excess
    if alpha > divergences.NEARLY_ONE:  # p/m is nearly 1, and p/m - 1 = (p - m)/m all that counts
        gradient = (m_over_p / (m_over_p + 1)).neg_().mul_(q)
    else:
        gradient = torch.div(q, m_over_p.add_(1), out=m_over_p)  # h = -(1-α)·p/m
    mean = gradient.sum(-1, keepdim=True)
    gradient.addcmul_(q, mean, value=-1).mul_(alpha - 1)
    return value, gradient


def _skew_reverse_kl(
    log_ratio: Tensor, p: Tensor, q: Tensor, alpha: float = 0.1
) -> tuple[Tensor, Tensor]:
    if alpha == 0:
        return _reverse_kl(log_ratio, p, q)
    # m/q - 1, with m = (1-α)p + αq
    m_over_q = log_ratio.clamp_(-MAX_LOG_RATIO, MAX_LOG_RATIO).expm1_().mul_(1 - alpha)
    excess = p.sub_(q).sum(-1).mul_(1 - alpha)
    gradient = torch.log1p(m_over_q, out=p).neg_().mul_(q)
    value = gradient.sum(-1)
    if alpha > divergences.NEARLY_ONE:  # q/m is nearly 1, and q/m - 1 = (q - m)/m all that counts
        gradient.addcdiv_(m_over_q * q, m_over_q + 1, value=alpha)
    else:
        gradient.addcdiv_(q, m_over_q.add_(1), value=-alpha)  # h = log(q/m) - α·q/m
    mean = gradient.sum(-1, keepdim=True)
    gradient.addcmul_(q, mean, value=-1)
    return value + excess, gradient


def _adaptive_kl(
    log_ratio: Tensor, p: Tensor, q: Tensor, mu: float = 0.5, crossing: str = "head"
) -> tuple[Tensor, Tensor]:
    gap = q - p
    excess = gap.sum(-1)
    head = head_mask(p, mu, crossing)
    all_gap = gap.abs().sum(-1)
    weight = torch.where(all_gap > 0, gap.abs().mul_(head).sum(-1) / all_gap, 0.5)
    forward = p.mul_(log_ratio).sum(-1)
    pull = log_ratio.mul_(q).neg_()  # reverse KL's gradient, before its mean is taken out
    reverse = pull.sum(-1)
    pull.addcmul_(q, reverse[:, None], value=-1)
    gradient = gap.mul_(weight[:, None]).addcmul_(pull, 1 - weight[:, None])
    value = weight * (forward + excess) + (1 - weight) * (reverse - excess)
    return value, gradient


def _total_variation(log_ratio: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    gap = torch.sub(q, p, out=p)
    value = torch.abs(gap, out=log_ratio).sum(-1).mul_(0.5)
    gradient = gap.sign_().mul_(q).mul_(0.5)  # h = ½·sign(q - p)
    mean = gradient.sum(-1, keepdim=True)
    return value, gradient.addcmul_(q, mean, value=-1)


def _alpha_beta(
    log_ratio: Tensor, p: Tensor, q: Tensor, alpha: float = 0.2, beta: float = 0.7
) -> tuple[Tensor, Tensor]:
    # As in divergences.py, with its d and h; h = ∂D/∂q is -q^(α+β-1)·(exp(α·log(p/q)) - 1)/α.
    total = alpha + beta
    larger = torch.maximum(p, q).pow_(total)
    distance = log_ratio.abs()
    of_p, of_q = _decayed(distance, alpha), _decayed(distance, beta)
    p_leads = log_ratio > 0
    p_fades, q_fades = distance.mul(-alpha).exp_(), distance.mul_(-beta).exp_()
    terms = torch.where(p_leads, of_q - q_fades * of_p, of_p - p_fades * of_q)
    value = terms.mul_(larger).sum(-1) / total
    gradient = torch.where(p_leads, -q_fades, 1).mul_(of_p).mul_(larger)
    mean = gradient.sum(-1, keepdim=True)
    return value, gradient.addcmul_(q, mean, value=-1)


def _decayed(distance: Tensor, rate: float) -> Tensor:
    return distance.clone() if rate == 0 else torch.expm1(-rate * distance).div_(-rate)


def _entropy_aware_kl(
    log_ratio: Tensor, p: Tensor, q: Tensor, threshold: float = 0.8
) -> tuple[Tensor, Tensor]:
    unsure = (torch.special.entr(p).sum(-1) > threshold).to(p.dtype)
    forward, gap = _forward_kl(log_ratio.clone(), p, q)
    value, gradient = _reverse_kl(log_ratio, p, q)
    return value + unsure * forward, gradient.addcmul_(gap, unsure[:, None])


RULES: dict[Divergence, Rule] = {
    divergences.forward_kl: _forward_kl,
    divergences.reverse_kl: _reverse_kl,
    divergences.jensen_shannon: _jensen_shannon,
    divergences.skew_forward_kl: _skew_forward_kl,
    divergences.skew_reverse_kl: _skew_reverse_kl,
    divergences.adaptive_kl: _adaptive_kl,
    divergences.total_variation: _total_variation,
    divergences.alpha_beta: _alpha_beta,
    divergences.entropy_aware_kl: _entropy_aware_kl,
}
SHARES: dict[Divergence, str] = {  # what a mixture of the two distributions is shared by
    divergences.jensen_shannon: "beta",
    divergences.skew_forward_kl: "alpha",
    divergences.skew_reverse_kl: "alpha",
}
