"""Names of gradients: settings between those that are tried; how often a right one is refused."""

import pytest
import torch

from kd_lab.check.candidates import Candidate, candidates, over_words
from kd_lab.check.forms import Loss, expected_gradient, token_gradients
from kd_lab.check.naming import name_gradients
from kd_lab.check.sampling import LEVEL, Sampled, sampled_gradients
from kd_lab.check.scale import gradients, samples_needed
from kd_lab.check.situations import situations
from kd_lab.divergences import get_divergence, reverse_kl
from tests.helpers.losses import jsd, k2, reward

AT = situations()


@pytest.mark.parametrize("beta", [0.03, 0.47, 0.93])
def test_a_setting_is_found_between_those_that_are_tried(beta):
    loss = Loss(jsd, settings={"beta": beta})
    ((candidate, coefficient),) = name_gradients(gradients(loss, AT), AT, candidates()).parts
    assert candidate.name == "jensen_shannon"
    assert dict(candidate.settings)["beta"] == pytest.approx(beta, abs=2e-3)
    assert coefficient == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize(("alpha", "beta"), [(0.2, 0.7), (0.5, 0.5), (0.83, 0.11), (1.3, 0.4)])
def test_the_exponents_of_alpha_beta_are_found(alpha, beta):
    ours = Candidate("", (), over_words(get_divergence("alpha_beta", alpha=alpha, beta=beta)))
    ((candidate, coefficient),) = name_gradients(ours.gradients(AT), AT, candidates()).parts
    assert candidate.name == "alpha_beta"
    assert dict(candidate.settings) == pytest.approx({"alpha": alpha, "beta": beta}, abs=2e-3)
    assert coefficient == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize(
    ("alpha", "beta", "simplest"),
    [(1, 0, "forward_kl"), (0, 1, "reverse_kl"), (1, 1, "0.5 squared error of probabilities")],
)
def test_the_simplest_name_wins_at_the_ends_of_alpha_beta(alpha, beta, simplest):
    ours = Candidate("", (), over_words(get_divergence("alpha_beta", alpha=alpha, beta=beta)))
    assert name_gradients(ours.gradients(AT), AT, candidates()).words == simplest


def test_forward_kl_where_the_teacher_is_unsure_is_a_sum_at_unsure_teachers():
    ours = Candidate("", (), over_words(get_divergence("entropy_aware_kl")))
    named = name_gradients(ours.gradients(AT), AT, candidates())
    assert named.words == "forward_kl + reverse_kl"


def test_the_registry_s_gradients_are_their_own():
    for candidate in candidates()[:20]:
        assert name_gradients(candidate.gradients(AT), AT, candidates()).unexplained < 1e-6


def test_an_expected_gradient_is_the_mean_over_all_words():
    """k2's coefficient of ∇log q(y) is log q(y)/p(y), whose mean is reverse KL's gradient."""
    loss = Loss(k2, "tokens")
    teacher, student = AT.teacher_logits[0], AT.student_logits[0]
    q = student.softmax(-1)
    log_ratio = student.log_softmax(-1) - teacher.log_softmax(-1)
    by_hand = q * (log_ratio - (q * log_ratio).sum())
    assert torch.allclose(expected_gradient(loss, teacher, student, 0), by_hand, atol=1e-12)


def test_samples_needed_are_those_of_a_simulation():
    loss = Loss(reward, "advantage")
    count = round(samples_needed(loss, AT)["near"])
    teacher, student = AT.teacher_logits[1], AT.student_logits[1]
    exact = expected_gradient(loss, teacher, student, 0)
    rows = token_gradients(loss, teacher, student)
    draw = torch.Generator().manual_seed(0)
    words = torch.multinomial(
        student.softmax(-1).expand(400, -1), count, replacement=True, generator=draw
    )
    means = torch.stack([rows[word].mean(0) for word in words])
    off = (means - exact).square().sum(-1).mean().sqrt() / exact.norm()
    assert off == pytest.approx(0.1, rel=0.1)


def test_false_alarms_come_as_often_as_is_stated():
    """2,000 sampled gradients of reverse KL, from its exact mean and covariance."""
    exact = torch.stack(
        [
            expected_gradient(Loss(reward, "advantage"), p, q, 0)
            for p, q in zip(AT.teacher_logits, AT.student_logits, strict=True)
        ]
    )
    sampled = sampled_gradients(Loss(reward, "advantage"), AT, seed=0)
    usual = torch.stack([c.gradients(AT) for c in candidates()]).norm(dim=-1).median(0).values
    root = torch.linalg.eigh(sampled.covariance)
    half = root.eigenvectors * root.eigenvalues.clamp(min=0).sqrt()[:, None, :]
    noise = torch.randn(2000, *exact.shape, 1, dtype=torch.float64, generator=_seeded())
    residuals = (half @ noise).squeeze(-1) / usual[:, None]
    refused = residuals.flatten(1).norm(dim=-1) > sampled.tolerance(usual)
    assert LEVEL / 3 < refused.double().mean() < 2 * LEVEL


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_a_sampled_name_says_what_it_cannot_tell():
    """Noise as large as the gradient: nothing is refused, and nothing is claimed to be zero."""
    exact = torch.stack([c.gradients(AT) for c in candidates()[:1]])[0]
    covariance = torch.eye(exact.shape[1], dtype=torch.float64).expand(len(exact), -1, -1)
    named = name_gradients(exact, AT, candidates(), Sampled(exact, covariance))
    assert named.is_zero
    assert over_words(get_divergence("reverse_kl"))(AT, AT.student_logits) == pytest.approx(
        reverse_kl(AT.teacher_logp, AT.student_logits.log_softmax(-1))
    )
