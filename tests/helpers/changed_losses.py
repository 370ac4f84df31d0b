"""All right and faulty losses: those of ``losses``, and what shows only where a call is changed.

Another vocabulary, words that are masked, another share or temperature, other micro-batches.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tests.helpers import losses
from tests.helpers.losses import TOKENS, Case, cross_entropy, forward, k2


def _at(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)


def _mixed(s: Tensor, t: Tensor, labels: Tensor, alpha: float = 1.0) -> Tensor:
    return alpha * forward(s, t, labels) + (1 - alpha) * cross_entropy(s, t, labels)


def _warm_k2(
    s: Tensor, t: Tensor, mask: Tensor, *, student_logits: Tensor, teacher_logits: Tensor,
    tokens: Tensor, temperature: float = 1.0,
) -> Tensor:  # fmt: skip
    q, p = (_at(logits / temperature, tokens) for logits in (student_logits, teacher_logits))
    return temperature**2 * k2(q, p, mask)


def _padded_with_zeros(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    more = t.shape[-1] - s.shape[-1]
    return forward(F.pad(s, (0, max(more, 0))), F.pad(t, (0, max(-more, 0))), labels)


def _no_infinity(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return forward(s.nan_to_num(neginf=0.0), t.nan_to_num(neginf=0.0), labels)


def _micro_batch_means(
    student: Any, teacher: Any, tokenizer: Any, conversations: Any, output_dir: str
) -> Any:
    """A trainer whose loss is a mean over its micro-batch, which nobody divides by their number."""
    from trl import SFTConfig, SFTTrainer

    class Trainer(SFTTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # type: ignore[no-untyped-def]
            return super().compute_loss(model, inputs, return_outputs)

    args = SFTConfig(
        output_dir=output_dir, per_device_train_batch_size=8, assistant_only_loss=True,
        use_cpu=True, disable_tqdm=True, report_to=[], bf16=False,
    )  # fmt: skip
    return Trainer(student, args, train_dataset=conversations, processing_class=tokenizer)


RIGHT = losses.RIGHT | {
    "a share of cross-entropy": Case(_mixed, "forward_kl"),
    "k2 at a temperature": Case(_warm_k2, "reverse_kl", TOKENS),
    "rows of one head alone are cut off": Case(
        lambda s, t, labels: forward(s[..., : t.shape[-1]], t[..., : s.shape[-1]], labels),
        "forward_kl",
    ),
}

FAULTS = losses.FAULTS | {
    "a mean of each micro-batch": Case(
        _micro_batch_means, "its gradient changes with the cut: in micro-batches of 1",
        {"form": "trainer"},
    ),
    "rows of one head alone are padded with zeros": Case(
        _padded_with_zeros, "the other model gets them with a logit of 0"
    ),
    "masked words give NaN": Case(
        forward, "masked by a logit of -inf in the teacher, in both models give NaN"
    ),
    "masked words come back": Case(_no_infinity, "are not left out"),
    "the share is applied twice": Case(
        lambda s, t, labels, alpha=1.0: alpha * _mixed(s, t, labels, alpha)
        + (1 - alpha) * cross_entropy(s, t, labels),
        "alpha is not the share of a loss: at 0.7 it gives 0.49 forward_kl + 0.51 cross_entropy",
    ),
    "the share has no effect": Case(
        lambda s, t, labels, alpha=1.0: forward(s, t, labels), "alpha has no effect"
    ),
    "log-probabilities are divided by the temperature": Case(
        lambda s, t, mask, *, student_logits, temperature=1.0: k2(
            s / temperature, t / temperature, mask
        ),
        "temperature does what no known temperature does", TOKENS,
    ),
    "the student's sampled tokens alone are tempered": Case(
        lambda s, t, mask, *, student_logits, tokens, temperature=1.0: k2(
            _at(student_logits / temperature, tokens), t, mask
        ),
        "the temperature changes the student alone", TOKENS,
    ),
}  # fmt: skip
