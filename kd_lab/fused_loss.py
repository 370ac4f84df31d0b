"""The distillation loss from hidden states and LM heads, without [tokens, vocabulary] logits.

At Qwen2.5's vocabulary one float32 logit tensor of 4,096 tokens is 2.5 GB, and a plain loss holds
seven to ten of that size (notebook 7 counts them). Here a chunk of tokens is projected, compared,
turned into the gradient of its logits in place and multiplied out at once, all in the forward pass:

    for each chunk of tokens:                        matrix products
        S = student_hidden · student_headᵀ           1   the chunk's student logits
        T = teacher_hidden · teacher_headᵀ           2   the chunk's teacher logits
        S ← ∂loss/∂S                                     a few rows at a time (logit_tiles.py)
        ∂loss/∂student_hidden = S · student_head     3
        ∂loss/∂student_head  += Sᵀ · student_hidden  4

Nothing is computed twice, and memory is a tile and a half of [chunk, vocabulary] (the teacher's is
half as high) however many tokens there are. The loss is

    loss = α·T²·mean D(p_T, q_T) + (1-α)·mean cross-entropy

with means over the positions whose label is not -100 (or over ``num_items``), p_T and q_T the
teacher's and the student's laws at temperature T (Hinton et al. 2015, arXiv 1503.02531), and D any
function of ``kd_lab.divergences``. Each position may have a weight in either mean: a policy
gradient is the second part with the rewards as weights (kd_lab/trainers/policy_gradient.py).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kd_lab.chunked_pass import ChunkedPass, Problem
from kd_lab.divergences import Divergence, get_divergence
from kd_lab.head_products import LiveLaw
from kd_lab.logit_tiles import Objective, StoredLaw, Weights
from kd_lab.vocabulary import IGNORED

CHUNK_SIZE = 512
TOPK_SLACK = 0.02  # log-probabilities kept in 16 bits may sum to this much more than log 1


class DistillationLoss(NamedTuple):
    """What a fused loss returns; only ``loss`` carries a gradient."""

    loss: Tensor  # α·T²·divergence + (1-α)·cross_entropy, each position with its weights
    # Plain means whatever the weights, so that runs can be compared, in nats per trained token:
    divergence: Tensor  # without the factor T²; NaN if no teacher was given
    cross_entropy: Tensor
    num_tokens: int  # trained tokens: labels that are not -100


def fused_linear_distillation_loss(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor | None,
    teacher_head: Tensor | None,
    labels: Tensor,
    *,
    divergence: str | Divergence = "forward_kl",
    alpha: float = 0.5,
    temperature: float = 1.0,
    chunk_size: int = CHUNK_SIZE,
    num_items: int | float | Tensor | None = None,
    vocab_size: int | None = None,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    divergence_weights: Tensor | None = None,
    cross_entropy_weights: Tensor | None = None,
) -> DistillationLoss:
    """α·T²·D(teacher, student) + (1-α)·cross-entropy, straight from the last hidden states.

    Position i of all three of ``student_hidden``, ``teacher_hidden`` and ``labels`` is one
    prediction: ``labels[i]`` is the token that comes next (shift before calling).

    Args:
        student_hidden: [N, H_s].
        student_head: [V, H_s]. A head that needs no gradient saves one matrix product.
        teacher_hidden: [N, H_t], or None with alpha = 0 (plain SFT, no teacher product).
        teacher_head: [V', H_t]. Where V' is not V, both are cut to the rows that they share.
        labels: [N]; -100 marks the positions that are left out (before any product).
        divergence: a name in ``kd_lab.divergences``, what ``get_divergence`` returns, or any
            function of that form.
        alpha: share of the divergence, in [0, 1]; 1 - alpha is the share of plain SFT.
        temperature: T > 0, on both models' logits inside the divergence only.
        chunk_size: tokens projected at a time; memory grows with it, the loss does not change.
        num_items: what the sums are divided by, where the mean runs over more than this call (an
            optimizer step of several micro-batches); default: the trained tokens of this call.
        vocab_size: rows that are real tokens in both heads (``kd_lab.vocabulary``); the softmax
            runs over these. Default: all rows that both heads have.
        student_bias, teacher_bias: [V], [V'].
        divergence_weights, cross_entropy_weights: [N], constants of any sign by which the two parts
            are multiplied at each position; ``num_items`` does not follow them. Default: ones.
    Returns:
        a ``DistillationLoss``; with no trained token its parts are 0 and so are all gradients.
    Raises:
        ValueError: shapes, labels or settings that do not fit.
        FloatingPointError: a logit that is infinite or NaN; says whose, and at which position.
    """
    rows = len(student_head) if vocab_size is None else vocab_size
    teacher = None
    if teacher_hidden is not None and teacher_head is not None:
        _check_hidden("teacher", teacher_hidden, teacher_head, labels)
        if vocab_size is None:
            rows = min(rows, len(teacher_head))
        elif vocab_size > len(teacher_head):
            raise ValueError(
                f"vocab_size {vocab_size} exceeds the teacher's {len(teacher_head)} rows"
            )
        teacher = LiveLaw(teacher_hidden, teacher_head, teacher_bias)
    elif teacher_hidden is not None or teacher_head is not None:
        raise ValueError("give both teacher_hidden and teacher_head, or neither")
    elif alpha != 0:
        raise ValueError(f"no teacher was given, which needs alpha = 0, not {alpha}")
    return _distillation_loss(
        student_hidden, student_head, student_bias, labels, teacher,
        divergence, alpha, temperature, chunk_size, num_items, rows,
        divergence_weights, cross_entropy_weights,
    )  # fmt: skip


def fused_linear_topk_distillation_loss(
    student_hidden: Tensor,
    student_head: Tensor,
    topk_logp: Tensor,
    topk_tokens: Tensor,
    labels: Tensor,
    *,
    topk_tail: Tensor | None = None,
    divergence: str | Divergence = "forward_kl",
    alpha: float = 0.5,
    temperature: float = 1.0,
    chunk_size: int = CHUNK_SIZE,
    num_items: int | float | Tensor | None = None,
    vocab_size: int | None = None,
    student_bias: Tensor | None = None,
    divergence_weights: Tensor | None = None,
    cross_entropy_weights: Tensor | None = None,
) -> DistillationLoss:
    """The same loss against a stored teacher: its k likeliest tokens and one bucket for the rest.

    The student's law is put into the same k + 1 buckets, and the divergence is taken between the
    two bucketed laws. Merging outcomes can only lower a KL (the data-processing inequality), so
    that the value is a lower bound, and exact at k = V. It saves the teacher's matrix product.

    Args:
        topk_logp: the teacher's log-probabilities, [N, k], taken at this same ``temperature``.
        topk_tokens: the tokens they belong to, integers [N, k], all different in a row.
        topk_tail: the log-probability of all other tokens together, [N]. Default: what the k leave
            of 1; but next to a probability of almost 1, rounding leaves nothing, and a student that
            gives these tokens any mass is then infinitely far away in reverse KL.
        Everything else: as in ``fused_linear_distillation_loss``.
    Raises:
        ValueError, FloatingPointError: likewise; also where a row of ``topk_logp``, with
            ``topk_tail``, sums to a probability over 1.
    """
    rows = len(student_head) if vocab_size is None else vocab_size
    if topk_logp.shape != topk_tokens.shape or topk_logp.shape[:-1] != labels.shape:
        raise ValueError(
            f"topk_logp {list(topk_logp.shape)} and topk_tokens {list(topk_tokens.shape)} must "
            f"both be [{len(labels)}, k]"
        )
    if topk_tokens.numel() and not 0 <= topk_tokens.min() <= topk_tokens.max() < rows:
        raise ValueError(f"topk_tokens has a token outside the {rows} rows of the vocabulary")
    total = topk_logp.double().logsumexp(-1)
    if topk_tail is None:
        topk_tail = torch.log1p(-total.exp().clamp(max=1))
    elif topk_tail.shape != labels.shape:
        raise ValueError(f"topk_tail is {list(topk_tail.shape)}, expected [{len(labels)}]")
    else:
        total = total.logaddexp(topk_tail.double())
    if len(total) and total.max() > TOPK_SLACK:
        raise ValueError(
            f"topk_logp sums to a probability of {total.max().exp():.3f} at position "
            f"{int(total.argmax())}; are these log-probabilities?"
        )
    return _distillation_loss(
        student_hidden, student_head, student_bias, labels,
        StoredLaw(topk_logp, topk_tokens, topk_tail),
        divergence, alpha, temperature, chunk_size, num_items, rows,
        divergence_weights, cross_entropy_weights,
    )  # fmt: skip


def _distillation_loss(
    student_hidden: Tensor,
    student_head: Tensor,
    student_bias: Tensor | None,
    labels: Tensor,
    teacher: LiveLaw | StoredLaw | None,
    divergence: str | Divergence,
    alpha: float,
    temperature: float,
    chunk_size: int,
    num_items: int | float | Tensor | None,
    rows: int,
    divergence_weights: Tensor | None,
    cross_entropy_weights: Tensor | None,
) -> DistillationLoss:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], not {alpha}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    _check_hidden("student", student_hidden, student_head, labels)
    if rows > len(student_head):
        raise ValueError(f"vocab_size {rows} exceeds the student's {len(student_head)} rows")
    trained = (labels != IGNORED).nonzero().squeeze(-1)
    targets = labels[trained]
    if len(targets) and not 0 <= targets.min() <= targets.max() < rows:
        raise ValueError(
            f"labels go from {int(targets.min())} to {int(targets.max())}, outside the {rows} rows "
            f"of the vocabulary"
        )
    weights = []
    for part, given in ("divergence", divergence_weights), ("cross_entropy", cross_entropy_weights):
        if given is not None and given.shape != labels.shape:
            raise ValueError(f"{part}_weights is {list(given.shape)}, expected [{len(labels)}]")
        ones = student_hidden.new_ones(len(targets), dtype=torch.float64)
        weights.append(ones if given is None else given.detach()[trained].to(ones))
    if isinstance(divergence, str):
        divergence = get_divergence(divergence)
    problem = Problem(
        trained=trained,
        targets=targets,
        weights=Weights(*weights),
        teacher=teacher,
        objective=Objective(divergence, alpha, temperature),
        chunk_size=chunk_size,
        num_items=float(max(len(trained), 1) if num_items is None else num_items),
        rows=rows,
    )
    loss, mean_divergence, cross_entropy = ChunkedPass.apply(
        student_hidden, student_head, student_bias, problem, torch.is_grad_enabled()
    )
    return DistillationLoss(loss, mean_divergence, cross_entropy, num_tokens=len(trained))


def _check_hidden(whose: str, hidden: Tensor, head: Tensor, labels: Tensor) -> None:
    expected = [len(labels), head.shape[-1]]
    if list(hidden.shape) != expected or labels.dim() != 1:
        raise ValueError(
            f"{whose}_hidden is {list(hidden.shape)}, expected {expected} from labels "
            f"{list(labels.shape)} and {whose}_head {list(head.shape)}"
        )
