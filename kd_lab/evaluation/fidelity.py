"""How faithful a student is to its teacher, over tokens and over whole answers.

Both come from the same pass of the two models over rows.

*On held-out references* each position compares the next-token distributions p (teacher) and q
(student). It gives forward and reverse KL, Jensen-Shannon, total variation, and how often the
likeliest tokens agree. Each model also has its entropy (nats) and its calibration.

*On answers that one of the two has written* the sum over an answer's tokens belongs to the whole
answer. With y drawn from p, log p(y|x) - log q(y|x) is an unbiased estimate of the sequence-level
forward KL, D(p(·|x)‖q(·|x)). With y drawn from q, its negative estimates reverse KL. The sum of the
token-level KLs along the same answer has the same mean, and usually less noise (Amini et al. 2025,
arXiv 2504.10637). Not always: each term is averaged under a prefix of its own, and their covariance
may make the sum noisier (notebook 4, exercise 4). We report both.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_lab.data.packed_rows import PackedRows
from kd_lab.divergences import forward_kl, jensen_shannon, reverse_kl, total_variation
from kd_lab.states import TOKENS_PER_BATCH, both_distributions

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel

Floats = NDArray[np.float64]

CALIBRATION_BINS = 15  # of equal width, as in Guo et al. 2017


class TokenFidelity(NamedTuple):
    """Means over each example's tokens, and the number of these tokens."""

    tokens: Floats  # how many each example has, [n]
    means: dict[str, Floats]  # each [n]; see ``token_fidelity``


class SequenceKL(NamedTuple):
    """A KL between the distributions of whole answers, one estimate an example, [n] each."""

    log_ratio: Floats  # log a(y) - log b(y), nats an answer; the mean is D(a‖b)
    rao_blackwell: Floats  # Σ over y's tokens of the token-level D(a‖b); the mean is the same
    tokens: Floats  # of y, end token included: the KL a token is Σ log_ratio / Σ tokens


@torch.inference_mode()
def token_fidelity(
    student: "PreTrainedModel",
    teacher: "PreTrainedModel",
    rows: PackedRows,
    *,
    vocab_size: int,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    advance: Callable[[int], object] = lambda done: None,
) -> TokenFidelity:
    """Compare the two models' next-token distributions at every trained token of rows.

    Args:
        student, teacher: in eval mode.
        rows: n training rows; both models see the same tokens.
        vocab_size, tokens_per_batch: as in ``both_distributions``.
        advance: called with the number of tokens compared since the last call.
    Returns:
        means over each example's tokens:
        - ``forward_kl``, ``reverse_kl``, ``jensen_shannon``: nats.
        - ``total_variation``, ``top1_agreement``: shares.
        - ``entropy``, ``nll`` (of the row's own token; nats) and ``calibration_error`` (see
          ``calibration_shares``), each after ``student_`` and ``teacher_``.
    Raises:
        ValueError: as ``both_distributions``.
    """
    measured: list[dict[str, Tensor]] = []
    for row, tokens, p, q in both_distributions(
        student, teacher, rows, vocab_size=vocab_size, tokens_per_batch=tokens_per_batch
    ):
        chunk = _compare(p, q, tokens) | {"row": row}
        measured.append({name: value.cpu() for name, value in chunk.items()})
        advance(len(row))
    columns = {name: torch.cat([chunk[name] for chunk in measured]).numpy() for name in measured[0]}
    return _by_example(columns, len(rows.lengths))


def sequence_kl(
    fidelity: TokenFidelity, direction: str, samples_per_example: int = 1
) -> SequenceKL:
    """The sequence-level KL, from answers that were sampled from one of the models.

    Args:
        fidelity: of rows whose trained tokens are such answers and nothing else. The answers must
            be drawn at temperature 1 without top_p or top_k: others come from another distribution.
        direction: "forward" if the teacher wrote them, "reverse" if the student did.
        samples_per_example: consecutive rows that answer the same prompt; they are averaged.
    Returns:
        a ``SequenceKL``. An answer cut off at a length counts up to the cut. So this is the KL
        between
        the distributions of answers cut at that length: a lower bound.
    Raises:
        ValueError: an unknown direction.
    """
    if direction not in ("forward", "reverse"):
        raise ValueError(f"direction must be 'forward' or 'reverse', not {direction!r}")
    means, tokens = fidelity.means, fidelity.tokens
    log_ratio = tokens * (means["student_nll"] - means["teacher_nll"])
    token_kls = tokens * means[f"{direction}_kl"]
    sign = 1 if direction == "forward" else -1
    return SequenceKL(
        *(
            column.reshape(-1, samples_per_example).mean(1)
            for column in (sign * log_ratio, token_kls, tokens)
        )
    )


def calibration_shares(
    confidence: Floats, correct: Floats, example: NDArray[np.int64], n: int
) -> Floats:
    """Each example's share in the expected calibration error, [n].

    The error (Guo et al. 2017, arXiv 1706.04599) sorts tokens into bins by the probability of the
    model's likeliest token. It adds up |Σ (confidence - correct)| over the bins and divides by the
    number of tokens. With each bin's sign held fixed this is a sum over tokens, and so over
    examples: weighted by their tokens, the shares have the error as their mean. An example's share
    is negative if its error has the opposite sign of its bins'.

    The error is biased upwards: chance moves each bin, and its size counts. Of a calibrated model
    with N independent tokens it is 0.4/√N to 1.3/√N, by the spread of its confidence, and never
    more than 1.55/√N. With 3,600 tokens that is 0.01 to 0.02. The interval holds the signs fixed,
    so it has the same bias, and mostly misses the 0 of a calibrated model.

    Args:
        confidence: the likeliest token's probability at each token, [N].
        correct: 1 if it is the token that comes, else 0, [N].
        example: the example of each token, [N], in 0 .. n - 1.
    """
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gap = confidence - correct
    sign = np.sign(np.bincount(bins, gap, CALIBRATION_BINS))
    tokens = np.bincount(example, minlength=n)
    return np.bincount(example, sign[bins] * gap, n) / np.maximum(tokens, 1)


def _compare(p: Tensor, q: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """All measures at each position of log-probabilities p and q, [C, V]; each [C]."""
    p_best, q_best = p.max(-1), q.max(-1)
    measured = {
        "forward_kl": forward_kl(p, q),
        "reverse_kl": reverse_kl(p, q),
        "jensen_shannon": jensen_shannon(p, q),
        "total_variation": total_variation(p, q),
        "top1_agreement": p_best.indices == q_best.indices,
    }
    for whose, logp, best in (("student", q, q_best), ("teacher", p, p_best)):
        measured |= {
            f"{whose}_entropy": torch.special.entr(logp.exp()).sum(-1),
            f"{whose}_nll": -logp.gather(-1, tokens[:, None]).squeeze(-1),
            f"{whose}_confidence": best.values.exp(),
            f"{whose}_correct": best.indices == tokens,
        }
    return {name: value.double() for name, value in measured.items()}


def _by_example(columns: dict[str, NDArray], n: int) -> TokenFidelity:
    example = columns.pop("row")
    tokens = np.bincount(example, minlength=n).astype(float)
    calibration = {
        f"{whose}_calibration_error": calibration_shares(
            columns.pop(f"{whose}_confidence"), columns.pop(f"{whose}_correct"), example, n
        )
        for whose in ("student", "teacher")
    }
    means = {name: np.bincount(example, value, n) / tokens for name, value in columns.items()}
    return TokenFidelity(tokens, means | calibration)
