"""Which of the true answers a model keeps: exactly, on the toy language, where the truth is known.

A question has twenty answers with known probabilities p; the model gives them q. One more outcome
holds all other answers: its p is 0, and its q is the rest of the model's mass. So scoring twenty
sentences gives the divergences between grammar and model exactly, without sampling.

D(grammar‖model) is over these 21 outcomes. D(model‖grammar) is infinite as soon as the model can
leave the grammar, as every softmax can. So two finite figures take its place. ``outside_mass`` is
the model's mass on other answers. ``reverse_kl_inside`` is D(q̃‖p), with q̃ the model's
distribution given that its answer is the grammar's.

A model can also spell a sentence with other tokens than its tokenizer would. That mass counts as
outside; for a trained model it is negligible.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from kd_lab.data.toy_language import answers, hallucinated_values, log_prob
from kd_lab.divergences import forward_kl, reverse_kl
from kd_lab.loss.token_log_probs import token_log_probs
from kd_lab.states import TOKENS_PER_BATCH, answered_rows, trained_states

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Floats = NDArray[np.float64]

COVERED = 0.1  # a mode is covered if the model gives it this share of its true probability


def grammar_distribution(questions: Sequence[str]) -> Floats:
    """log p of the twenty answers to each question, likeliest first, nats, [n, 20]."""
    return np.array(
        [[math.log(probability) for _, probability in answers(question)] for question in questions]
    )


def model_distribution(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[str],
    prompts: Sequence[Sequence[int]],
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    advance: Callable[[int], object] = lambda done: None,
) -> Floats:
    """log q of the same twenty answers, each to its end token, under the model, nats, [n, 20].

    Args:
        model: in eval mode.
        questions: the last question of each prompt.
        prompts: token ids, the header of the answer included.
        tokens_per_batch: of a forward pass.
        advance: called with the number of answers scored since the last call; 20n in all.
    """
    texts = [text for question in questions for text, _ in answers(question)]
    modes = len(texts) // len(questions)
    spelt = tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = answered_rows(
        [prompt for prompt in prompts for _ in range(modes)],
        [[*ids, tokenizer.eos_token_id] for ids in spelt],
    )
    log_probs = np.zeros(len(texts))
    head = model.get_output_embeddings()
    for states in trained_states([model], rows, tokens_per_batch):
        per_token = token_log_probs(
            states.hidden[0], head.weight, states.tokens, bias=head.bias, vocab_size=len(tokenizer)
        )
        np.add.at(log_probs, states.row.cpu().numpy(), per_token.double().cpu().numpy())
        advance(len(states.row.unique()))
    return log_probs.reshape(len(questions), modes)


def exact_modes(grammar_logp: Floats, model_logp: Floats) -> dict[str, Floats]:
    """A model's distribution against the grammar's, one value a question.

    Args:
        grammar_logp: log p of all the answers to each question, [n, m]; each row sums to one.
        model_logp: log q of the same answers, [n, m]; the mass missing to one is outside.
    Returns:
        each [n]:
        - ``coverage``: the mass p of the answers that the model gives at least a tenth of their p.
        - ``outside_mass``: the model's mass on other answers; one minus precision in the limit.
        - ``forward_kl``: D(grammar‖model), nats.
        - ``reverse_kl_inside``: D(model‖grammar) given that the answer is the grammar's, nats.
    """
    p_logp, q_logp = torch.as_tensor(grammar_logp), torch.as_tensor(model_logp)  # [n, m]
    p, inside = p_logp.exp(), q_logp.logsumexp(-1, keepdim=True)
    outside = (1 - inside.exp()).clamp(min=0)  # rounding may leave a tiny negative number
    covered = q_logp >= p_logp + math.log(COVERED)
    nowhere = torch.full_like(outside, -math.inf)
    return {
        "coverage": torch.where(covered, p, 0).sum(-1).numpy(),
        "outside_mass": outside.squeeze(-1).numpy(),
        "forward_kl": forward_kl(
            torch.cat([p_logp, nowhere], -1), torch.cat([q_logp, outside.log()], -1)
        ).numpy(),
        "reverse_kl_inside": reverse_kl(p_logp, q_logp - inside).numpy(),
    }


def sampled_modes(
    questions: Sequence[str], texts: Sequence[Sequence[str]], finished: Sequence[Sequence[bool]]
) -> dict[str, Floats]:
    """Precision and hallucination of sampled answers to the toy's questions.

    Args:
        questions: [n].
        texts: the answers to each question, with all special tokens but the end token.
        finished: whether each reached its end token; a cut one is no sentence.
    Returns:
        each [n], shares of the answers:
        - ``precision``: the grammar can produce the answer.
        - ``hallucination``: the answer has a guest or an hour that the question did not give.
    """
    precise = [
        [done and log_prob(question, text) > -math.inf for text, done in zip(*both, strict=True)]
        for question, *both in zip(questions, texts, finished, strict=True)
    ]
    invented = [
        [bool(hallucinated_values(question, text)) for text in of_question]
        for question, of_question in zip(questions, texts, strict=True)
    ]
    return {
        "precision": np.array([np.mean(row) for row in precise]),
        "hallucination": np.array([np.mean(row) for row in invented]),
    }
