"""A problem set on distillation: nine functions to write; ``pytest teach/check_problems.py``.

p is the teacher, q the student, both over a vocabulary of V tokens. Replace each ``raise`` by your
answer. PyTorch is all you need; do not call ``kd_lab`` in an answer.
"""

from torch import Tensor


class Unanswered(NotImplementedError):
    """A problem that nobody has answered yet."""


def forward_kl(p: Tensor, q: Tensor) -> Tensor:
    """1. D(p‖q) in nats, of probabilities [..., V], as [...].

    A token with p = 0 adds nothing. A token with p > 0 and q = 0 makes it infinite. Use no epsilon.
    """
    raise Unanswered("1. forward_kl")


def reverse_kl_gradient(p: Tensor, z: Tensor) -> Tensor:
    """2. The gradient of D(q‖p) to the student's logits z [V], where q = softmax(z); by formula.

    Autograd would give it, too. Here p is a tensor of probabilities [V], all above 0.
    """
    raise Unanswered("2. reverse_kl_gradient")


def loss_at_temperature(t: Tensor, z: Tensor, temperature: float) -> Tensor:
    """3. T² times forward KL of the teacher's logits t [V] and the student's z [V], both at T."""
    raise Unanswered("3. loss_at_temperature")


def mean_over_trained_tokens(values: list[Tensor], labels: list[Tensor]) -> Tensor:
    """4. The mean of values over all trained tokens of several micro-batches.

    Each of ``values`` and ``labels`` is one micro-batch, [B, L]; B and L differ. A token is trained
    where its label is not -100. The mean must not depend on how rows were put into micro-batches.
    """
    raise Unanswered("4. mean_over_trained_tokens")


def estimates(p_logp: Tensor, q_logp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """5. The estimates k1, k2 and k3 of D(q‖p), from one token that the student sampled.

    Args:
        p_logp, q_logp: that token's log-probabilities, [...].
    """
    raise Unanswered("5. estimates")


def topk_forward_kl(p_top: Tensor, q: Tensor, ids: Tensor) -> Tensor:
    """6. Forward KL where only the teacher's k likeliest tokens were stored.

    All other tokens are merged into one bucket, for both models.

    Args:
        p_top: the teacher's probabilities of the k tokens, [k]; they sum to less than 1.
        q: the student's probabilities, [V].
        ids: which tokens the k are, [k].
    """
    raise Unanswered("6. topk_forward_kl")


def shared_log_probabilities(z: Tensor, vocabulary: int) -> Tensor:
    """7. Log-probabilities of the first ``vocabulary`` tokens, [..., vocabulary], that sum to one.

    z [..., rows] has more rows than the tokenizer has tokens; the rest is padding.
    """
    raise Unanswered("7. shared_log_probabilities")


def divergence_of_answers(
    p_first: Tensor, p_second: Tensor, q_first: Tensor, q_second: Tensor
) -> Tensor:
    """8. D(p‖q) of answers of two tokens, by the chain rule.

    Args:
        p_first, q_first: probabilities of the first token, [V].
        p_second, q_second: of the second, after each first one, [V, V].
    """
    raise Unanswered("8. divergence_of_answers")


def best_gaussian(weights: Tensor, means: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """9. Mean and standard deviation of the Gaussian q with the least D(p‖q) to a mixture p.

    Args:
        weights, means, widths: of the mixture's Gaussians, [n] each; weights sum to 1.
    """
    raise Unanswered("9. best_gaussian")
