"""Three divergences that a teacher's k likeliest tokens allow, against the whole one.

The store keeps the k likeliest tokens of the teacher's distribution p. The student has all of q.

    bucket         compares both distributions over k + 1 outcomes: the k tokens, and all others as
                   one. Merging outcomes can only lower a divergence (data processing). So this is a
                   lower bound; it grows with k and is exact at k = V. It is 0 at q = p.
    cut            compares both distributions over the k tokens alone, renormalised. It is 0 at
                   q = p too, but blind to the student's mass outside of the k tokens.
    renormalised   compares p over the k tokens alone, renormalised, with the whole of q. It is 0 at
                   a student without a tail, and not at q = p: biased (arXiv 2503.16870, §3).

``fused_linear_topk_distillation_loss`` trains "bucket"; the other two are here for comparison. Each
function takes log-probabilities [..., V] and returns the two distributions to compare.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kd_lab.data.packed_rows import PackedRows
from kd_lab.divergences import Divergence, forward_kl, reverse_kl
from kd_lab.evaluation.intervals import bootstrap_interval
from kd_lab.loss.tiles import by_autograd
from kd_lab.states import TOKENS_PER_BATCH, both_distributions
from kd_lab.teacher.signals import topk_bytes

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel

Floats = NDArray[np.float64]
Distributions = tuple[Tensor, Tensor]

DIRECTIONS: dict[str, Divergence] = {"forward_kl": forward_kl, "reverse_kl": reverse_kl}


def bucket(teacher_logp: Tensor, student_logp: Tensor, k: int) -> Distributions:
    """Both distributions over the teacher's k likeliest tokens and all others as one, [..., k + 1].

    Args:
        teacher_logp, student_logp: log-probabilities, [..., V].
        k: in 1 ... V; at V the result is the two distributions, sorted, without a bucket.
    """
    kept = _topk(teacher_logp, k)
    if k == teacher_logp.shape[-1]:
        return teacher_logp.gather(-1, kept), student_logp.gather(-1, kept)
    return _with_tail(teacher_logp, kept), _with_tail(student_logp, kept)


def cut(teacher_logp: Tensor, student_logp: Tensor, k: int) -> Distributions:
    """Both distributions over the teacher's k likeliest tokens alone, renormalised, [..., k]."""
    kept = _topk(teacher_logp, k)
    return (
        teacher_logp.gather(-1, kept).log_softmax(-1),
        student_logp.gather(-1, kept).log_softmax(-1),
    )


def renormalised(teacher_logp: Tensor, student_logp: Tensor, k: int) -> Distributions:
    """The teacher's k likeliest tokens renormalised (-inf elsewhere), and all of q, [..., V]."""
    kept = _topk(teacher_logp, k)
    nothing = torch.full_like(teacher_logp, -torch.inf)
    return nothing.scatter(-1, kept, teacher_logp.gather(-1, kept).log_softmax(-1)), student_logp


VERSIONS: dict[str, Callable[[Tensor, Tensor, int], Distributions]] = {
    "bucket": bucket,
    "cut": cut,
    "renormalised": renormalised,
}


def value_and_gradient(
    divergence: Divergence,
    teacher_logp: Tensor,
    student_logp: Tensor,
    version: str | None = None,
    k: int = 0,
) -> tuple[Tensor, Tensor]:
    """A divergence and its gradient by the student's logits.

    Args:
        teacher_logp, student_logp: log-probabilities, [N, V].
        version, k: a name in ``VERSIONS`` with its k; None compares the whole distributions.
    Returns:
        nats [N] and the gradient of their sum, [N, V].
    """
    student_logp = student_logp.clone()  # which by_autograd overwrites
    if version is None:
        return by_autograd(divergence, teacher_logp, student_logp)
    distributions = VERSIONS[version]
    return by_autograd(lambda p, q: divergence(*distributions(p, q, k)), teacher_logp, student_logp)


class Kept(NamedTuple):
    """One version of one divergence against the whole one, at each position or summed."""

    value: Any  # D_k, nats
    error: Any  # ‖g_k - g‖², of the gradients to the logits
    dot: Any  # g_k·g
    square: Any  # ‖g_k‖²


class TopkComparison(NamedTuple):
    """The measured sums over each example's tokens, [n] each."""

    tokens: Floats
    whole: dict[str, Floats]  # direction -> Σ D, nats
    squares: dict[str, Floats]  # direction -> Σ ‖g‖²
    tail: dict[int, Floats]  # k -> Σ of the teacher's mass outside of its k likeliest tokens
    kept: dict[tuple[str, str, int], Kept]  # (version, direction, k) ->

    def to_json(self, seed: int = 0) -> dict[str, Any]:
        """Means and ratios with 95% intervals by a bootstrap over examples.

        The bootstrap draws examples, since tokens of one answer are not independent.

        Returns:
            - ``examples``, ``tokens``: their numbers.
            - ``forward_kl``, ``reverse_kl``: the whole divergences, nats a token.
            - ``by_k``: a list of ``k``, the teacher's mean ``tail_mass`` and, for each version and
              direction, ``kept`` (Σ D_k / Σ D), ``gradient_error`` (the root of Σ‖g_k - g‖² /
              Σ‖g‖²) and ``gradient_cosine``. The cosine is of all tokens' gradients as one vector,
              without an interval; it is None where a gradient is 0 ("cut" to one token).
        """
        rows = []
        for k, mass in self.tail.items():
            row: dict[str, Any] = {"k": k, "tail_mass": _ratio(mass, self.tokens, seed)}
            for (version, direction, of), kept in self.kept.items():
                if of == k:
                    row.setdefault(version, {})[direction] = self._row(kept, direction, seed)
            rows.append(row)
        return {
            "examples": len(self.tokens),
            "tokens": int(self.tokens.sum()),
            **{name: _ratio(nats, self.tokens, seed) for name, nats in self.whole.items()},
            "by_k": rows,
        }

    def _row(self, kept: Kept, direction: str, seed: int) -> dict[str, Any]:
        squares = self.squares[direction]
        error = _ratio(kept.error, squares, seed)
        norms = (kept.square.sum() * squares.sum()) ** 0.5
        return {
            "kept": _ratio(kept.value, self.whole[direction], seed),
            "gradient_error": {name: bound**0.5 for name, bound in error.items()},
            "gradient_cosine": float(kept.dot.sum() / norms) if norms else None,
        }


@torch.no_grad()
def compare_topk(
    student: "PreTrainedModel",
    teacher: "PreTrainedModel",
    rows: PackedRows,
    ks: Sequence[int],
    *,
    vocab_size: int,
    student_temperature: float = 1.0,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    advance: Callable[[int], object] = lambda done: None,
) -> TopkComparison:
    """Every version of both KLs at every k, against the whole KLs, at every trained token.

    Args:
        student, teacher: in eval mode.
        rows: n training rows; both models see the same tokens.
        ks: how many tokens are kept, each in 1 ... vocab_size.
        vocab_size: how many vocabulary rows of both LM heads are real tokens.
        student_temperature: divides the student's logits. With student = teacher, the two differ in
            temperature only.
        advance: called with the number of tokens compared since the last call.
    Raises:
        ValueError: a k is out of range, or as ``both_distributions``.
    """
    if not ks or not 1 <= min(ks) <= max(ks) <= vocab_size:
        raise ValueError(f"every k must lie in 1 ... {vocab_size}, and there must be one: {ks}")
    measured: list[dict[Any, Tensor]] = []
    for row, _, p, q in both_distributions(
        student, teacher, rows,
        vocab_size=vocab_size, tokens_per_batch=tokens_per_batch, dtype=torch.float64,
    ):  # fmt: skip
        sharpened = (q / student_temperature).log_softmax(-1)
        measured.append(compare_distributions(p, sharpened, ks) | {"row": row})
        advance(len(row))
    return _by_example(measured, len(rows.lengths))


def compare_distributions(
    teacher_logp: Tensor, student_logp: Tensor, ks: Sequence[int]
) -> dict[Any, Tensor]:
    """All terms that ``compare_topk`` sums, at each position of log-probabilities [N, V].

    A version's gradient by the tail's logits is one number times the student's share of the tail.
    So sums over the tail suffice, and no [N, V] is made for each k.

    Returns:
        float64 [N] each, by ("whole" or "square", direction), ("tail", k) and (version, direction,
        k, field of ``Kept``). Reverse KL has no version "renormalised": it is infinite.
    """
    p_logp, order = teacher_logp.double().sort(-1, descending=True)
    q_logp = student_logp.double().gather(-1, order)
    q = q_logp.exp()
    p_tail, q_tail, qq_tail = (_tail_sums(x) for x in (p_logp.exp(), q, q * q))
    measured: dict[Any, Tensor] = {("tail", k): p_tail[:, k] for k in ks}
    for direction, divergence in DIRECTIONS.items():
        value, g = value_and_gradient(divergence, p_logp, q_logp)
        qg_tail, gg_tail = _tail_sums(q * g), _tail_sums(g * g)
        measured["whole", direction], measured["square", direction] = value, gg_tail[:, 0]
        for version, k in itertools.product(VERSIONS, ks):
            if (version, direction) == ("renormalised", "reverse_kl"):
                continue
            kept_p, kept_q = p_logp[:, :k], q_logp[:, :k]
            if version != "bucket":
                kept_p = kept_p.log_softmax(-1)
            if version == "cut":
                pair = kept_p, kept_q.log_softmax(-1)
            else:
                rest = (
                    p_tail[:, k : k + 1] if version == "bucket" else torch.zeros_like(kept_p[:, :1])
                )
                pair = (
                    torch.cat([kept_p, rest.log()], -1),
                    torch.cat([kept_q, q_tail[:, k : k + 1].log()], -1),
                )
            value, own = by_autograd(divergence, *pair)  # [N], [N, k or k + 1]
            head, by_share = own[:, :k], own[:, k:].sum(-1) / q_tail[:, k].clamp(min=1e-300)
            part = Kept(
                value,
                error=(head - g[:, :k]).square().sum(-1)
                + (by_share**2 * qq_tail[:, k] - 2 * by_share * qg_tail[:, k] + gg_tail[:, k]),
                dot=(head * g[:, :k]).sum(-1) + by_share * qg_tail[:, k],
                square=head.square().sum(-1) + by_share**2 * qq_tail[:, k],
            )
            measured |= {(version, direction, k, x): y for x, y in part._asdict().items()}
    return {name: value.clone() for name, value in measured.items()}  # no views of [N, V + 1]


def bytes_per_token(k: int, vocab_size: int) -> int:
    """Bytes that a cache of ``teacher_signal: topk`` adds for each trained token."""
    return topk_bytes(k, vocab_size)


def _topk(teacher_logp: Tensor, k: int) -> Tensor:
    if not 1 <= k <= teacher_logp.shape[-1]:
        raise ValueError(f"k must lie in 1 ... {teacher_logp.shape[-1]}, not {k}")
    return teacher_logp.topk(k, dim=-1).indices


def _with_tail(logp: Tensor, kept: Tensor) -> Tensor:
    others = logp.scatter(-1, kept, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logp.gather(-1, kept), others], -1)


def _tail_sums(x: Tensor) -> Tensor:
    """Σ over x[..., k:], for every k in 0 ... V: [N, V + 1]."""
    return F.pad(x.flip(-1).cumsum(-1).flip(-1), (0, 1))


def _by_example(measured: list[dict[Any, Tensor]], n: int) -> TopkComparison:
    example = torch.cat([chunk.pop("row") for chunk in measured]).cpu().numpy()
    sums: dict[Any, Floats] = {
        name: np.bincount(
            example, torch.cat([chunk[name] for chunk in measured]).cpu().numpy(), n
        ).astype(np.float64)
        for name in measured[0]
    }
    kept_names = dict.fromkeys(name[:3] for name in sums if len(name) == 4)
    return TopkComparison(
        tokens=np.bincount(example, minlength=n).astype(float),
        whole={direction: sums["whole", direction] for direction in DIRECTIONS},
        squares={direction: sums["square", direction] for direction in DIRECTIONS},
        tail={name[1]: total for name, total in sums.items() if name[0] == "tail"},
        kept={name: Kept(*(sums[*name, part] for part in Kept._fields)) for name in kept_names},
    )


def _ratio(part: Floats, whole: Floats, seed: int) -> dict[str, float]:
    """Σ part / Σ whole over examples, with its interval."""
    interval = bootstrap_interval(part / whole, whole, seed=seed)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}
