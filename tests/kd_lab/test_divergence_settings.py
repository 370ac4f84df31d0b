"""A divergence by its name and with its settings, and what is said of wrong ones."""

import math

import pytest
import torch

from kd_lab import divergences as D


def test_get_divergence_binds_settings():
    p, q = torch.randn(2, 5, 6, dtype=torch.float64).log_softmax(-1)
    torch.testing.assert_close(
        D.get_divergence("jensen_shannon", beta=0.2)(p, q), D.jensen_shannon(p, q, beta=0.2)
    )
    assert D.get_divergence("forward_kl") is D.forward_kl


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ValueError, match="unknown divergence 'reverse_lk'") as refusal:
        D.get_divergence("reverse_lk")
    assert "did you mean 'reverse_kl'?" in str(refusal.value)
    assert all(name in str(refusal.value) for name in D.DIVERGENCES)
    with pytest.raises(ValueError, match=r"unknown divergence 'wasserstein' \(known: forward_kl"):
        D.get_divergence("wasserstein")


@pytest.mark.parametrize(
    ("name", "bound", "message"),
    [
        ("forward_kl", {"beta": 0.5}, r"forward_kl has no setting 'beta' \(it has: none\)"),
        ("adaptive_kl", {"nu": 0.5}, r"adaptive_kl has no setting 'nu' \(it has: mu, crossing\)"),
        ("adaptive_kl", {"mu": 1.5}, r"mu must be a number in \[0, 1\], not 1.5"),
        ("adaptive_kl", {"crossing": "middle"}, "crossing must be 'head' or 'tail', not 'middle'"),
        ("jensen_shannon", {"beta": -0.1}, r"beta must be a number in \[0, 1\], not -0.1"),
        ("jensen_shannon", {"beta": math.nan}, r"beta must be a number in \[0, 1\], not nan"),
        ("alpha_beta", {"alpha": -0.1}, "alpha must be a number, and at least 0, not -0.1"),
        ("alpha_beta", {"beta": math.inf}, "beta must be a number, and at least 0, not inf"),
        ("alpha_beta", {"alpha": 0, "beta": 0}, "alpha and beta must not both be 0"),
        ("entropy_aware_kl", {"threshold": -1}, "threshold must be a number, and at least 0"),
        ("entropy_aware_kl", {"threshold": math.nan}, "at least 0, not nan"),
        ("skew_forward_kl", {"alpha": 2}, r"alpha must be a number in \[0, 1\], not 2"),
        ("skew_reverse_kl", {"alpha": True}, "alpha must be a number, not true"),
        ("skew_reverse_kl", {"alpha": "0.1"}, r"alpha must be a number in \[0, 1\], not '0.1'"),
    ],
)
def test_a_bad_setting_is_refused_before_anything_is_computed(name, bound, message):
    with pytest.raises(ValueError, match=message):
        D.get_divergence(name, **bound)
