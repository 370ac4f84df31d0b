"""A loss of the catalogue is named at any setting; one that is not has no name, or its true one."""

from functools import partial

import pytest
import torch
from torch import Tensor

from kd_lab.check import check_loss, sampling
from kd_lab.check.batch_names import name_of_batches
from kd_lab.check.candidates import candidates
from kd_lab.check.forms import Loss
from kd_lab.check.sampling import depends_on_batch
from kd_lab.check.situations import situations
from kd_lab.check.verdict import name_of
from kd_lab.divergences import get_divergence
from tests.helpers.losses import FAULTS, cross_entropy, forward, reverse, trained_mean

AT = situations()


def name(function, **how) -> str:
    return name_of(Loss(function, **how), AT, candidates()).words


def plain(divergence, temperature=1.0, **settings):
    """T²·D(p_T, q_T) of the registry."""
    of = get_divergence(divergence, **settings)

    def loss(s, t, labels):
        each = of((t / temperature).log_softmax(-1), (s / temperature).log_softmax(-1))
        return temperature**2 * trained_mean(each, labels)

    return loss


def mixed(share, soft):
    return lambda s, t, labels: (
        share * soft(s, t, labels) + (1 - share) * cross_entropy(s, t, labels)
    )


def of_words(value):
    """A loss by a formula of p, q and their logarithms."""
    return lambda s, t, labels: trained_mean(
        value(t.softmax(-1), s.softmax(-1), t.log_softmax(-1), s.log_softmax(-1)), labels
    )


def top(s: Tensor, t: Tensor, labels: Tensor, by: str, tail: bool) -> Tensor:
    """Forward KL over the top 6 words that one of the models chooses."""
    tokens = (t if by == "teacher" else s.detach()).topk(6).indices
    p, q = (x.log_softmax(-1).gather(-1, tokens) for x in (t, s))
    if tail:
        p, q = (torch.cat([x, torch.log1p(-x.exp().sum(-1, keepdim=True))], -1) for x in (p, q))
    return trained_mean((p.exp() * (p - q)).sum(-1), labels)


KNOWN = {
    "forward_kl (T 0.7)": plain("forward_kl", 0.7),
    "reverse_kl (T 1.7)": plain("reverse_kl", 1.7),
    "forward_kl (T 3.3)": plain("forward_kl", 3.3),
    "0.0918 forward_kl (T 3.3)": lambda s, t, labels: forward(s, t, labels, 3.3) / 3.3**2,
    "forward_kl of a student whose temperature alone is changed (T 1.7)": (
        lambda s, t, labels: forward(s / 1.7, t, labels)
    ),
    "forward_kl against a teacher whose temperature alone is changed (T 1.7)": (
        lambda s, t, labels: forward(s, t / 1.7, labels)
    ),
    "0.5 forward_kl (T 2) + 0.5 cross_entropy": mixed(0.5, plain("forward_kl", 2.0)),
    "0.97 forward_kl (T 5) + 0.03 cross_entropy": mixed(0.97, plain("forward_kl", 5.0)),
    "0.03 forward_kl (T 0.7) + 0.97 cross_entropy": mixed(0.03, plain("forward_kl", 0.7)),
    "0.03 forward_kl (T 8.5) + 0.97 cross_entropy": mixed(0.03, plain("forward_kl", 8.5)),
    "0.03 forward_kl + 0.97 cross_entropy": mixed(0.03, forward),
    "0.0005 forward_kl (T 2) + 0.0005 cross_entropy": (
        lambda s, t, labels: 1e-3 * mixed(0.5, plain("forward_kl", 2.0))(s, t, labels)
    ),
    "jensen_shannon (beta 0.1, T 2)": plain("jensen_shannon", 2.0, beta=0.1),
    # 12.4 jensen_shannon (beta 0.0803, T 12.52) leaves less than 0.001% of it.
    "skew_forward_kl (alpha 0.04, T 12.5)": plain("skew_forward_kl", 12.5, alpha=0.04),
    "0.6 jensen_shannon (beta 0.13) + 0.4 cross_entropy": mixed(
        0.6, plain("jensen_shannon", beta=0.13)
    ),
    # A neighbour, 10 jensen_shannon (beta 0.9), leaves less than 0.2% of it too.
    "skew_reverse_kl (alpha 0.05)": plain("skew_reverse_kl", alpha=0.05),
    "0.6 skew_reverse_kl (alpha 0.03) + 0.4 cross_entropy": mixed(
        0.6, plain("skew_reverse_kl", alpha=0.03)
    ),
    "1e+03 reverse_kl": lambda s, t, labels: 1e3 * reverse(s, t, labels),
    "24 jensen_shannon (beta 0.1)": lambda s, t, labels: (
        plain("jensen_shannon", beta=0.1)(s, t, labels) * s.shape[-1]
    ),
    "0.5 total_variation + 0.5 cross_entropy": mixed(0.5, plain("total_variation")),
    "reverse_kl + 0.1 negative entropy of the student": of_words(
        lambda p, q, log_p, log_q: (q * (1.1 * log_q - log_p)).sum(-1)
    ),
    "forward_kl, the tail in one bucket": partial(top, by="teacher", tail=True),
    "forward_kl, truncated: the words outside are left out": partial(top, by="teacher", tail=False),
}


@pytest.mark.parametrize("words", KNOWN)
def test_a_known_loss_is_named_at_any_setting(words):
    assert name(KNOWN[words]) == words


# What is said of losses that are not in the catalogue.
TRUE = {
    "teacher and student are swapped": (
        lambda s, t, labels: reverse(s, t, labels, 2.0),
        "reverse_kl (T 2)",
    ),
    "the logarithm is detached": (
        of_words(lambda p, q, log_p, log_q: (q * (log_q.detach() - log_p)).sum(-1)),
        "reverse_kl",
    ),
    "a root of forward KL": (
        of_words(lambda p, q, log_p, log_q: (p * (log_p - log_q)).sum(-1).sqrt()),
        "the direction of forward_kl, 0.49 to 2.2 times as long",
    ),
    "a root of skew reverse KL": (
        of_words(
            lambda p, q, log_p, log_q: (q * (log_q - (0.95 * p + 0.05 * q).log())).sum(-1).sqrt()
        ),
        "the direction of skew_reverse_kl (alpha 0.05), 0.67 to 2.4 times as long",
    ),
    "Hellinger": (
        of_words(lambda p, q, log_p, log_q: 2 * (p.sqrt() - q.sqrt()).square().sum(-1)),
        "alpha_beta (alpha 0.5, beta 0.5)",
    ),
    "Bhattacharyya": (
        of_words(lambda p, q, log_p, log_q: -(p * q).sqrt().sum(-1).log()),
        "the direction of alpha_beta (alpha 0.5, beta 0.5), 0.25 to 0.3 times as long",
    ),
    "Renyi": (
        of_words(lambda p, q, log_p, log_q: -(p**0.3 * q**0.7).sum(-1).log() / 0.7),
        "the direction of alpha_beta (alpha 0.3, beta 0.7), 0.3 to 0.35 times as long",
    ),
}


@pytest.mark.parametrize("what", TRUE)
def test_what_is_not_in_the_catalogue_has_its_true_words(what):
    function, words = TRUE[what]
    assert name(function) == words


NONE = {
    "chi-square, by the student": lambda p, q, log_p, log_q: ((p - q).square() / q).sum(-1),
    "chi-square, by the teacher": lambda p, q, log_p, log_q: ((p - q).square() / p).sum(-1),
    "squared log-ratio": lambda p, q, log_p, log_q: (q * (log_p - log_q).square()).sum(-1),
    "smooth total variation": lambda p, q, log_p, log_q: ((p - q).square() + 1e-4).sqrt().sum(-1),
    "a smoothed teacher": lambda p, q, log_p, log_q: -((0.98 * p + 0.02 / 24) * log_q).sum(-1),
    "half of the mixture is detached": lambda p, q, log_p, log_q: (
        p * (log_p - (p + q).log()) + q * (log_q - (p + q).detach().log())
    ).sum(-1),
}  # fmt: skip


@pytest.mark.parametrize("what", NONE)
def test_what_is_unknown_has_no_name(what):
    assert name(of_words(NONE[what])).startswith("none of the known losses")


def test_three_parts_have_no_name():
    def three(s, t, labels):
        return cross_entropy(s, t, labels) + forward(s, t, labels) + reverse(s, t, labels)

    assert name(three).startswith("none of the known losses")


@pytest.mark.parametrize("seed", range(2))
def test_random_losses_have_no_name(seed):
    """Σ p^a·q^b·(1 + c·tanh log p/q)."""
    a, b, c = (torch.rand(3, generator=torch.Generator().manual_seed(seed)) * 3 - 1).tolist()
    function = of_words(
        lambda p, q, log_p, log_q: (p**a * q**b * (1 + c * (log_p - log_q).tanh())).sum(-1)
    )
    assert name(function).startswith("none of the known losses")


def test_a_direction_is_not_the_expected_loss():
    verdict = check_loss(TRUE["a root of forward KL"][0])
    assert (
        "it is not forward_kl: it optimises the direction of" in verdict.objections("forward_kl")[0]
    )


def test_a_loss_that_changes_the_teacher_s_logits_is_named_by_those_it_was_given():
    assert name(FAULTS["the teacher is changed in place"].function) == "forward_kl"


def whitened(s, t, mask):
    r = (t - s)[mask]
    return (t - s - r.mean()) / (r.std(unbiased=False) + 1e-8)


@pytest.mark.parametrize(
    ("advantage", "words"),
    [
        (whitened, "the direction of reverse_kl, "),
        (
            lambda s, t, mask: (t - s) / ((t - s)[mask].std(unbiased=False) + 1e-8),
            "the direction of reverse_kl, ",
        ),
        (
            lambda s, t, mask: whitened(s, t, mask).clamp(-1, 1),
            "none of the known losses",
        ),
        (
            lambda s, t, mask: (t - s) + (t - s).exp() - ((t - s) + (t - s).exp())[mask].mean(),
            "forward_kl + reverse_kl",
        ),
    ],
    ids=["whitened", "scaled", "whitened and clipped", "a sum and a baseline"],
)
def test_what_a_batch_does_to_all_its_tokens_is_told(monkeypatch, advantage, words):
    monkeypatch.setattr(sampling, "BATCHES", 40)
    named, _ = name_of_batches(Loss(advantage, "advantage"), AT, candidates())
    assert named.words.startswith(words)
    assert depends_on_batch(Loss(advantage, "advantage"), AT)


def test_a_temperature_that_was_found_is_the_expected_one():
    verdict = check_loss(KNOWN["forward_kl (T 3.3)"])
    assert not verdict.objections("forward_kl", T=3.3)
    assert verdict.objections("forward_kl", T=3.4)
    assert verdict.objections("forward_kl")


def test_a_loss_that_rounds_its_logits_is_named_at_rounded_ones():
    def rounded(s, t, labels):
        return forward(s.bfloat16().float(), t.bfloat16().float(), labels)

    verdict = check_loss(rounded)
    assert verdict.named.words == "forward_kl"
    assert "rounds logits to bfloat16" in " ".join(finding.words for finding in verdict.findings)
    assert not verdict.faults
