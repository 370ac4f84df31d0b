"""k1, k2 and k3 of each sampled word, held against the exact gradient on the answer tree.

With r = log p/q of a written word, k1 = -r, k2 = r²/2 and k3 = e^r - 1 - r (Schulman 2020). Each
estimates D(q‖p). Each can be a loss, which is differentiated, or a reward of the score function;
a reward can count at its own word alone, or at all words before it too:

    k1_loss               ∇k1 = ∇ log q
    k2_loss               ∇k2 = -r·∇ log q
    k3_loss               ∇k3 = (1 - e^r)·∇ log q
    k1_reward             r_t of the word itself
    k1_baseline           r_t less its mean, -D(q‖p) of the next word (arXiv 2605.07865)
    k1_top_baseline       r_t less the part of that sum which the student's likeliest words have
    k1_reward_to_go       r_t + … + r_T
    k1_baseline_to_go     the same, less the mean of r_t alone
    k3_reward             -k3 of the word itself
    k3_reward_to_go       -(k3 of y_t + … + k3 of y_T)
    whole_vocabulary      no sampled word: the next word's KL by its sum over all words

``answer_tree.py`` gives the mean of each over all answers, and ``gradient_estimators.py`` its
spread.
"""

import torch
from torch import Tensor

from evidence.gradients.gradient_estimators import (
    ESTIMATORS,
    Estimator,
    Written,
    score_function,
)
from kd_lab.trainers.policy_gradient_weights import future_rewards


def _k3(rewards: Tensor) -> Tensor:
    return rewards.exp() - 1 - rewards


def _to_go(of_words: Tensor, written: Written) -> Tensor:
    return of_words + future_rewards(of_words, written.mask, length_normalised=False)


# The gradient of -w·log q is -w·∇ log q: each w below is minus what stands in the table above.
TOKEN_ESTIMATORS = {
    "k1_loss": Estimator(
        "k1 as a loss", score_function(lambda written, rewards: -torch.ones_like(rewards))
    ),
    "k2_loss": Estimator("k2 as a loss", score_function(lambda written, rewards: rewards)),
    "k3_loss": Estimator("k3 as a loss", score_function(lambda written, rewards: rewards.expm1())),
    "k1_reward": Estimator(
        "k1 as the word's reward", score_function(lambda written, rewards: rewards)
    ),
    "k1_baseline": Estimator(
        "… less its mean",
        score_function(lambda written, rewards: rewards + written.next_kl),
    ),
    "k1_top_baseline": Estimator(
        "… less its mean over 8 words",
        score_function(lambda written, rewards: rewards + written.next_kl_top),
    ),
    "k1_reward_to_go": ESTIMATORS["reward_to_go"]._replace(label="k1 as a reward to go"),
    "k1_baseline_to_go": Estimator(
        "… less the mean of the word's own",
        score_function(lambda written, rewards: _to_go(rewards, written) + written.next_kl),
    ),
    "k3_reward": Estimator(
        "k3 as the word's reward", score_function(lambda written, rewards: -_k3(rewards))
    ),
    "k3_reward_to_go": Estimator(
        "k3 as a reward to go",
        score_function(lambda written, rewards: -_to_go(_k3(rewards) * written.mask, written)),
    ),
    "whole_vocabulary": ESTIMATORS["on_policy"]._replace(label="the whole next word"),
}
