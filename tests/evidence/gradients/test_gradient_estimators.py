"""Estimators on a tree whose every answer can be enumerated, and against the trainer's own loss."""

import pytest
import torch

from evidence.gradients.answer_tree import Paths
from evidence.gradients.gradient_estimators import (
    ESTIMATORS,
    exact_gradient,
    expected_gradients,
    measure_estimators,
    sampled_gradients,
    what_is_known,
)
from kd_lab.divergences import reverse_kl
from kd_lab.loss import LiveDistribution, Objective, Weights, distillation_loss
from tests.helpers.little_tree import PROMPT, STUDENT, TEACHER, little_tree

UNBIASED = {
    "whole_return", "reward_to_go", "mean_baseline", "perfect_critic", "single_step",
    "single_step_baseline", "mixed_whole_products",
}  # fmt: skip


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module")
def tree():
    return little_tree(0.05)


@pytest.fixture(scope="module")
def leaves(tree) -> Paths:
    (paths,) = tree.leaves()
    return paths


def test_which_are_unbiased(tree):
    exact, means = exact_gradient(STUDENT, tree), expected_gradients(STUDENT, tree)
    assert means.keys() == ESTIMATORS.keys()
    for name, mean in means.items():
        if name in UNBIASED:
            assert distance(mean, exact) < 1e-5, name
        elif name != "differentiated_sample":
            assert 1e-2 < distance(mean, exact) < 1, name


def test_differentiating_a_sampled_log_ratio_gives_nothing(tree):
    mean = expected_gradients(STUDENT, tree, ["differentiated_sample"])["differentiated_sample"]
    assert mean.norm() < 1e-5 * exact_gradient(STUDENT, tree).norm()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradients_one_by_one_have_the_expected_mean(tree, leaves, name):
    estimator = ESTIMATORS[name]
    each = sampled_gradients(STUDENT, tree, leaves, estimator)
    logp = tree.written_with(estimator.teacher_mix)[leaves.nodes, leaves.words]
    probability = (logp * leaves.mask).sum(1).exp()
    expected = expected_gradients(STUDENT, tree, [name])[name]
    torch.testing.assert_close(probability @ each, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["single_step", "on_policy", "minillm"])
def test_one_answer_against_the_trainers_fused_loss(tree, leaves, name):
    answer = int(leaves.mask.sum(1).argmax())
    one = Paths(*(part[answer : answer + 1] for part in leaves))
    found = sampled_gradients(STUDENT, tree, one, ESTIMATORS[name])[0]

    weights = ESTIMATORS[name].weights(what_is_known(tree)(one))
    words = one.words[one.mask]
    ids = torch.tensor([[*PROMPT, *words.tolist()]])
    states = [model.get_decoder()(ids).last_hidden_state[0] for model in (STUDENT, TEACHER)]
    hidden, teacher_hidden = (state[len(PROMPT) - 1 : -1] for state in states)
    loss = distillation_loss(
        LiveDistribution(hidden, STUDENT.lm_head.weight),
        LiveDistribution(teacher_hidden.detach(), TEACHER.lm_head.weight.detach()),
        words,
        Objective(reverse_kl, Weights(*(weight[one.mask] for weight in weights))),
        vocab_size=4,
    ).loss
    gradients = torch.autograd.grad(loss, list(STUDENT.parameters()))
    expected = torch.cat([gradient.flatten() for gradient in gradients])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_each_exact_part_takes_variance_away(tree, leaves):
    """Exactly, over all answers. (Baselines need not: here the mean one adds to it.)"""
    logp = tree.student_logp.detach()[leaves.nodes, leaves.words]
    probability = (logp * leaves.mask).sum(1).exp()
    exact = exact_gradient(STUDENT, tree)
    variance = {}
    for name in ("whole_return", "reward_to_go", "single_step"):
        each = sampled_gradients(STUDENT, tree, leaves, ESTIMATORS[name])
        variance[name] = float(probability @ (each - exact).square().sum(1))
    assert variance["single_step"] < variance["reward_to_go"] < variance["whole_return"]


def test_measured_against_enumerated(tree, leaves):
    samples = 256
    found = measure_estimators(STUDENT, tree, samples=samples, averaged=(1, 8), seed=0)
    exact = exact_gradient(STUDENT, tree)
    for name, quality in found.items():
        estimator = ESTIMATORS[name]
        each = sampled_gradients(STUDENT, tree, leaves, estimator)
        logp = tree.written_with(estimator.teacher_mix)[leaves.nodes, leaves.words]
        probability = (logp * leaves.mask).sum(1).exp()
        mean = probability @ each
        noise = (each - mean).square().sum(1) / exact.norm() ** 2
        variance = float(probability @ noise)
        spread = float((probability @ (noise - variance).square()).sqrt()) / samples**0.5
        assert abs(quality.variance - variance) < 4.5 * spread
        assert quality.bias == pytest.approx(distance(mean, exact), abs=1e-5)
        for n in (1, 8):
            expected = (quality.bias**2 + variance / n) ** 0.5
            assert quality.error[n] == pytest.approx(expected, rel=0.3)
    assert found["single_step"].cosine[8] > found["single_step"].cosine[1]


def test_blocks_must_fit(tree):
    with pytest.raises(ValueError, match="averaged: 3 does not divide the 16 samples"):
        measure_estimators(STUDENT, tree, samples=16, averaged=(3,), seed=0)
