"""One page to print: every divergence with gradient, limits, a mnemonic, and who trains with it.

Each gradient stands twice: as a formula to read, and as a function that a test holds against
autograd. A divergence of the registry that has no row here fails a test.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kd_lab.divergences import head_mask


@dataclass(frozen=True)
class Row:
    """A divergence on the sheet; formulas in LaTeX, ``gradient_at`` in PyTorch.

    Attributes:
        name: as the field says it.
        formula: the divergence, a sum over the vocabulary.
        gradient: to one of the student's logits, z_i.
        gradient_at: the same, of probabilities p and q, [V], at the default settings.
        limits: where it ends, and what it becomes.
        mnemonic: how to remember which one it is.
        used_by: methods, with their papers.
    """

    name: str
    formula: str
    gradient: str
    gradient_at: Callable[[Tensor, Tensor], Tensor]
    limits: str
    mnemonic: str
    used_by: str


def _reverse_kl(p: Tensor, q: Tensor) -> Tensor:
    log_ratio = (q / p).log()
    return q * (log_ratio - (q * log_ratio).sum())


def _jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    return 0.5 * _reverse_kl((p + q) / 2, q)


def _adaptive_kl(p: Tensor, q: Tensor) -> Tensor:
    gap, head = (p - q).abs(), head_mask(p, 0.5)
    w = gap[head].sum() / gap.sum()
    return w * (q - p) + (1 - w) * _reverse_kl(p, q)


def _skew_forward_kl(p: Tensor, q: Tensor) -> Tensor:
    share = p / (0.1 * p + 0.9 * q)
    return 0.9 * q * ((q * share).sum() - share)


def _skew_reverse_kl(p: Tensor, q: Tensor) -> Tensor:
    m = 0.9 * p + 0.1 * q
    h = (q / m).log() - 0.1 * q / m
    return q * (h - (q * h).sum())


def _alpha_beta(p: Tensor, q: Tensor) -> Tensor:
    h = (q ** (0.2 + 0.7) - p**0.2 * q**0.7) / 0.2  # q·∂D/∂q
    return h - q * h.sum()


def _entropy_aware_kl(p: Tensor, q: Tensor) -> Tensor:
    unsure = -(p * p.log()).sum() > 0.8
    return _reverse_kl(p, q) + unsure * (q - p)


def _total_variation(p: Tensor, q: Tensor) -> Tensor:
    side = torch.sign(q - p)
    return 0.5 * q * (side - (q * side).sum())


ROWS = {
    "forward_kl": Row(
        "forward KL",
        r"\sum p \log\frac{p}{q}",
        r"q_i - p_i",
        lambda p, q: q - p,
        "Infinite where the teacher says what the student never would",
        "The truth comes first: the student covers the whole truth.",
        "Hinton et al. 2015, token-level and sequence-level distillation",
    ),
    "reverse_kl": Row(
        "reverse KL",
        r"\sum q \log\frac{q}{p}",
        r"q_i \left(\log\frac{q_i}{p_i} - D(q\|p)\right)",
        _reverse_kl,
        "Infinite where the student says what the teacher never would; almost no push on words "
        "that the student finds unlikely",
        "The student comes first: nothing but the truth.",
        "MiniLLM, on-policy distillation (Qwen3, Thinking Machines)",
    ),
    "jensen_shannon": Row(
        "JSD(β)",
        r"\beta D(p\|m) + (1-\beta) D(q\|m), \; m = \beta p + (1-\beta) q",
        r"(1-\beta)\, q_i \left(\log\frac{q_i}{m_i} - D(q\|m)\right)",
        _jensen_shannon,
        "At most log 2; divided by β it is forward KL as β → 0, divided by 1-β reverse KL as β → 1",
        "Both are compared with their mixture.",
        "GKD",
    ),
    "adaptive_kl": Row(
        "adaptive KL",
        r"w D(p\|q) + (1-w) D(q\|p), \; w = \frac{g_\text{head}}{g_\text{head} + g_\text{tail}}",
        r"w\,(q_i - p_i) + (1-w)\, q_i \left(\log\frac{q_i}{p_i} - D(q\|p)\right)",
        _adaptive_kl,
        "Forward KL where all of the gap is in the head, reverse KL where all is in the tail",
        "It works where the gap is; g is the sum of |p - q| there.",
        "AKL (Wu et al. 2024)",
    ),
    "skew_forward_kl": Row(
        "skew forward KL",
        r"D(p\|m), \; m = \alpha p + (1-\alpha) q",
        r"(1-\alpha)\, q_i \left(\sum_j q_j \frac{p_j}{m_j} - \frac{p_i}{m_i}\right)",
        _skew_forward_kl,
        "At most -log α; forward KL as α → 0",
        "Forward KL with a net of α p under it.",
        "DistiLLM, DistiLLM-2 on the teacher's answers",
    ),
    "skew_reverse_kl": Row(
        "skew reverse KL",
        r"D(q\|m), \; m = (1-\alpha) p + \alpha q",
        r"q_i \left(h_i - \sum_j q_j h_j\right), \; "
        r"h = \log\frac{q}{m} - \alpha \frac{q}{m}",
        _skew_reverse_kl,
        "At most -log α; reverse KL as α → 0",
        "Reverse KL with a net of α q under it.",
        "DistiLLM, DistiLLM-2 on the student's answers",
    ),
    "total_variation": Row(
        "total variation",
        r"\frac{1}{2}\sum |p - q|",
        r"\frac{1}{2} q_i \left(s_i - \sum_j q_j s_j\right), \; s = \operatorname{sign}(q - p)",
        _total_variation,
        "Between 0 and 1; at most the root of half of either KL",
        "It counts on which side a word is, and not how far.",
        "f-distillation (Wen et al. 2023)",
    ),
    "alpha_beta": Row(
        "alpha-beta",
        r"-\frac{1}{\alpha\beta}\sum \left[p^\alpha q^\beta - \frac{\alpha}{s} p^s "
        r"- \frac{\beta}{s} q^s\right], \; s = \alpha + \beta",
        r"h_i - q_i \sum_j h_j, \; h = \frac{1}{\alpha}\left(q^s - p^\alpha q^\beta\right)",
        _alpha_beta,
        "(1, 0) is forward KL, (0, 1) reverse KL, (½, ½) four times the squared Hellinger distance",
        "A smaller α looks at the largest differences, a larger β at the student's own words.",
        "ABKD",
    ),
    "entropy_aware_kl": Row(
        "entropy-aware KL",
        r"D(q\|p) + [H(p) > h]\, D(p\|q)",
        r"q_i \left(\log\frac{q_i}{p_i} - D(q\|p)\right) + [H(p) > h]\,(q_i - p_i)",
        _entropy_aware_kl,
        "Reverse KL where the teacher is sure, both KLs where it is not",
        "Cover only where the teacher itself is unsure.",
        "Entropy-aware on-policy distillation (arXiv 2603.07079)",
    ),
}

# From one sampled token y of the student, with r = log p(y) - log q(y): what its value and its own
# gradient are on average.
ESTIMATORS = (
    ("k1", r"-r", "reverse KL", "zero: it trains nothing", "as a reward, −k1 gives reverse KL"),
    ("k2", r"\frac{1}{2} r^2", "no KL, close to one near the teacher", "reverse KL", "as a loss"),
    (
        "k3",
        r"e^{r} - 1 - r",
        "reverse KL; less noise near the teacher, more where p/q is large",
        "forward KL",
        "as a value",
    ),
)


def page() -> str:
    """The two tables in Markdown."""
    lines = [
        "| divergence | formula, and gradient to $z_i$ | what to know |",
        "|---|---|---|",
    ]
    for name, row in ROWS.items():
        lines.append(
            f"| **{row.name}**<br>`{name}` | ${_cell(row.formula)}$<br>${_cell(row.gradient)}$ "
            f"| *{_cell(row.mnemonic)}* {_cell(row.limits)}. Used by {row.used_by}. |"
        )
    lines += [
        "",
        "| estimator | of one sampled token | its mean | its gradient's mean | where it is right |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | ${formula}$ | {value} | {gradient} | {place} |"
        for name, formula, value, gradient, place in ESTIMATORS
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """A text in a cell of a Markdown table: its bars are no borders."""
    return text.replace("|", r"\|")
