"""k1, k2 and k3 on a tree whose every answer can be enumerated."""

import pytest
import torch

from evidence.gradients.gradient_estimators import (
    TOP,
    exact_gradient,
    expected_gradients,
    prefix_gradient,
    sampled_gradients,
    what_is_known,
)
from evidence.gradients.token_estimators import TOKEN_ESTIMATORS
from kd_lab.divergences import forward_kl, reverse_kl
from tests.helpers.little_tree import STUDENT, little_tree


@pytest.fixture(scope="module")
def tree():
    return little_tree(0.05)


@pytest.fixture(scope="module")
def means(tree):
    return expected_gradients(STUDENT, tree, estimators=TOKEN_ESTIMATORS)


def near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).norm() < 1e-5 * expected.norm())


def test_what_each_has_on_average(tree, means):
    exact = exact_gradient(STUDENT, tree)
    reverse, forward = (prefix_gradient(STUDENT, tree, kl) for kl in (reverse_kl, forward_kl))
    assert not near(reverse, exact)
    assert means["k1_loss"].norm() < 1e-5 * exact.norm()
    for name in ("k2_loss", "k1_reward", "k1_baseline", "k1_top_baseline", "whole_vocabulary"):
        assert near(means[name], reverse), name
    for name in ("k1_reward_to_go", "k1_baseline_to_go"):
        assert near(means[name], exact), name
    assert near(means["k3_loss"], forward)
    assert near(means["k3_reward"], reverse - forward)
    assert near(means["k3_reward_to_go"], exact - forward)


def test_k2_as_a_loss_is_k1_as_the_reward_answer_by_answer(tree):
    paths = tree.sample(8, 0.0, seed=0)
    one, other = (
        sampled_gradients(STUDENT, tree, paths, TOKEN_ESTIMATORS[name])
        for name in ("k2_loss", "k1_reward")
    )
    torch.testing.assert_close(one, other)


def test_weights_are_gradients_of_the_losses(tree):
    """By autograd on the log-probabilities of the words of one answer."""
    written = what_is_known(tree)(tree.sample(16, 0.0, seed=1))
    q = written.student_logp.clone().requires_grad_()
    r = written.teacher_logp - q
    for name, loss in (("k1_loss", -r), ("k2_loss", r**2 / 2), ("k3_loss", r.exp() - 1 - r)):
        (due,) = torch.autograd.grad((loss * written.mask).sum(), q, retain_graph=True)
        found = TOKEN_ESTIMATORS[name].weights(written)
        torch.testing.assert_close(-found.cross_entropy, due)
        assert not found.divergence.any()


def test_the_baseline_over_the_likeliest_words_is_a_part_of_the_whole(tree):
    written = what_is_known(tree)(tree.sample(16, 0.0, seed=1))
    assert tree.student_logp.shape[1] <= TOP  # four words: all of them
    torch.testing.assert_close(
        written.next_kl_top[written.mask], written.next_kl[written.mask], atol=1e-6, rtol=1e-5
    )
