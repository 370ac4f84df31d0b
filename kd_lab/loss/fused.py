"""The distillation loss from hidden states and LM heads, without [tokens, vocabulary] logits.

This is the door for code outside of the trainers: plain tensors in, the loss and its gradients out.
At Qwen2.5's vocabulary one float32 logit tensor of 4,096 tokens is 2.5 GB. A plain loss holds seven
to ten tensors of that size (notebook 7 counts them). Here they are never whole (chunks.py):

    loss = α·T²·mean D(p_T, q_T) + (1-α)·mean cross-entropy

The means are over the positions whose label is not -100 (or over ``num_items``). p_T and q_T are
the teacher's and the student's distributions at temperature T (Hinton et al. 2015, arXiv
1503.02531). D is any function of ``kd_lab.divergences``. Each position may have a weight in either
mean. A policy gradient is the second part with the rewards as weights
(kd_lab/trainers/policy_gradient_weights.py).
"""

import torch
from torch import Tensor

from kd_lab.divergences import Divergence, get_divergence
from kd_lab.loss.chunks import CHUNK_SIZE, DistillationLoss, LiveDistribution, distillation_loss
from kd_lab.loss.tiles import Objective, StoredDistribution, Weights, precise
from kd_lab.vocabulary import IGNORED

ROWS_AT_A_TIME = 1024  # of top k tokens, to be compared with one another
TOPK_SLACK = 0.02  # log-probabilities kept in 16 bits may sum to this much more than log 1


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
        num_items: the divisor of the sums, if the mean runs over more than this call (an optimizer
            step of several micro-batches). Default: the trained tokens of this call.
        vocab_size: rows that are real tokens in both heads (``kd_lab.vocabulary``); the softmax
            runs over these. Default: all rows that both heads have.
        student_bias, teacher_bias: [V], [V'].
        divergence_weights, cross_entropy_weights: [N], constants of any sign by which the two parts
            are multiplied at each position; ``num_items`` does not follow them. Default: ones.
    Returns:
        a ``DistillationLoss``; with no trained token its parts are 0 and so are all gradients.
    Raises:
        ValueError: shapes, labels or settings that do not fit.
        FloatingPointError: a logit or a weight that is infinite or NaN; says whose, and at which
            position.
    """
    rows = len(student_head) if vocab_size is None else vocab_size
    teacher = None
    if teacher_hidden is not None and teacher_head is not None:
        if vocab_size is None:
            rows = min(rows, len(teacher_head))
        teacher = LiveDistribution(teacher_hidden, teacher_head, teacher_bias)
    elif teacher_hidden is not None or teacher_head is not None:
        raise ValueError("give both teacher_hidden and teacher_head, or neither")
    elif alpha != 0:
        raise ValueError(f"no teacher was given, which needs alpha = 0, not {alpha}")
    return _labelled_loss(
        LiveDistribution(student_hidden, student_head, student_bias),
        teacher,
        labels,
        _objective(divergence, alpha, temperature, divergence_weights, cross_entropy_weights),
        num_items,
        rows,
        chunk_size,
    )


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

    The student's distribution is put into the same k + 1 buckets. The divergence compares the two
    bucketed distributions. Merging outcomes can only lower a KL (the data-processing inequality).
    So the value is a lower bound, and exact at k = V. It saves the teacher's matrix product.

    Args:
        topk_logp: the teacher's log-probabilities, [N, k], taken at this same ``temperature``.
        topk_tokens: the tokens they belong to, integers [N, k], all different at a position.
        topk_tail: the log-probability of all other tokens together, [N]. Default: the rest of 1.
            Next to a probability of almost 1 rounding leaves no rest. A student with any mass on
            these tokens is then infinitely far away in reverse KL.
        others: as in ``fused_linear_distillation_loss``.
    Raises:
        ValueError, FloatingPointError: likewise; also if a position of ``topk_logp`` sums to a
            probability over 1, with ``topk_tail`` to another than 1, or has a token twice.
    """
    rows = len(student_head) if vocab_size is None else vocab_size
    if topk_logp.shape != topk_tokens.shape or topk_logp.shape[:-1] != labels.shape:
        raise ValueError(
            f"topk_logp {list(topk_logp.shape)} and topk_tokens {list(topk_tokens.shape)} must "
            f"both be [{len(labels)}, k]"
        )
    if topk_tokens.numel() and not 0 <= topk_tokens.min() <= topk_tokens.max() < rows:
        raise ValueError(f"topk_tokens has a token outside the {rows} rows of the vocabulary")
    _check_all_different(topk_tokens)
    dtype = precise(topk_logp.device)
    total = off = topk_logp.to(dtype).logsumexp(-1)
    if topk_tail is None:
        topk_tail = torch.log1p(-total.exp().clamp(max=1))
    elif topk_tail.shape != labels.shape:
        raise ValueError(f"topk_tail is {list(topk_tail.shape)}, expected [{len(labels)}]")
    else:
        total = total.logaddexp(topk_tail.to(dtype))
        off = total.abs().where(labels != IGNORED, 0)  # too little is as wrong as too much
    if len(total) and not off.max() <= TOPK_SLACK:  # NaN is the largest
        worst = int(off.argmax())
        raise ValueError(
            f"topk_logp sums to a probability of {total[worst].exp():.3f} at position {worst}; are "
            "these log-probabilities?"
        )
    return _labelled_loss(
        LiveDistribution(student_hidden, student_head, student_bias),
        StoredDistribution(topk_logp, topk_tokens, topk_tail),
        labels,
        _objective(divergence, alpha, temperature, divergence_weights, cross_entropy_weights),
        num_items,
        rows,
        chunk_size,
    )


def _check_all_different(topk_tokens: Tensor) -> None:
    """Refuse a position that names a token twice: the two would be one bucket of the student's."""
    for start in range(0, len(topk_tokens), ROWS_AT_A_TIME):
        ordered = topk_tokens[start : start + ROWS_AT_A_TIME].sort(-1).values
        twice = (ordered[:, 1:] == ordered[:, :-1]).any(-1)
        if twice.any():
            position = start + int(twice.nonzero()[0])
            raise ValueError(f"topk_tokens has a token twice at position {position}")


def _objective(
    divergence: str | Divergence,
    alpha: float,
    temperature: float,
    divergence_weights: Tensor | None,
    cross_entropy_weights: Tensor | None,
) -> Objective:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], not {alpha}")
    return Objective(
        get_divergence(divergence) if isinstance(divergence, str) else divergence,
        Weights(
            _shared(alpha, divergence_weights),
            _shared(1 - alpha, cross_entropy_weights),
        ),
        temperature,
    )


def _shared(share: float, weights: Tensor | None) -> Tensor | float:
    return share if weights is None else share * weights.to(precise(weights.device))


def _labelled_loss(
    student: LiveDistribution,
    teacher: LiveDistribution | StoredDistribution | None,
    labels: Tensor,
    objective: Objective,
    num_items: int | float | Tensor | None,
    vocab_size: int,
    chunk_size: int,
) -> DistillationLoss:
    """The loss at the positions that have a label; the others are left out before any product."""
    if labels.dim() != 1:
        raise ValueError(f"labels must be [N], not {list(labels.shape)}")
    for whose, side in ("student", student), ("teacher", teacher):
        if isinstance(side, LiveDistribution):
            expected = [len(labels), side.head.shape[-1]]
            if list(side.hidden.shape) != expected:
                raise ValueError(
                    f"{whose}_hidden is {list(side.hidden.shape)}, expected {expected} from labels "
                    f"{list(labels.shape)} and {whose}_head {list(side.head.shape)}"
                )
    for name, part in objective.weights._asdict().items():
        if isinstance(part, Tensor) and part.shape != labels.shape:
            raise ValueError(f"{name}_weights is {list(part.shape)}, expected [{len(labels)}]")
    trained = (labels != IGNORED).nonzero().squeeze(-1)
    every = len(trained) == len(labels)

    def pick(per_position: Tensor) -> Tensor:
        return per_position if every else per_position[trained]

    if isinstance(teacher, LiveDistribution):
        teacher = teacher._replace(hidden=pick(teacher.hidden))
    elif teacher is not None:
        teacher = StoredDistribution(*map(pick, teacher))
    weights = Weights(
        *(pick(part.detach()) if isinstance(part, Tensor) else part for part in objective.weights)
    )
    total = max(len(trained), 1) if num_items is None else num_items
    return distillation_loss(
        student._replace(hidden=pick(student.hidden)),
        teacher,
        labels[trained],
        Objective(objective.divergence, weights, objective.temperature, total),
        vocab_size=vocab_size,
        chunk_size=chunk_size,
    )
