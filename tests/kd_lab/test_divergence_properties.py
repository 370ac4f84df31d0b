"""What must hold for every pair of distributions, searched for counterexamples by hypothesis."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd_lab import divergences as D

Pair = tuple[Tensor, Tensor]

search = settings(deadline=None, max_examples=60)


@st.composite
def pairs(draw: st.DrawFn, largest_logit: float = 30.0, zeros: bool = False) -> Pair:
    """log p and log q over 2 to 9 tokens, float64 [V]; with ``zeros``, some of them -inf."""
    vocab_size = draw(st.integers(2, 9))
    logit = st.floats(-largest_logit, largest_logit)
    if zeros:
        logit |= st.just(-math.inf)
    logits = st.lists(logit, min_size=vocab_size, max_size=vocab_size).filter(
        lambda logits: max(logits) > -math.inf
    )
    p, q = (torch.tensor(draw(logits), dtype=torch.float64).log_softmax(-1) for _ in range(2))
    return p, q


shares = st.floats(0.01, 0.99)
every_divergence = pytest.mark.parametrize("name", list(D.DIVERGENCES))


@every_divergence
@search
@given(pair=pairs(zeros=True))
def test_never_negative_never_nan(name, pair):
    assert D.get_divergence(name)(*pair).item() >= -1e-12


@every_divergence
@search
@given(pair=pairs(zeros=True))
def test_zero_at_equality(name, pair):
    assert D.get_divergence(name)(pair[0], pair[0]).item() == pytest.approx(0, abs=1e-12)


@every_divergence
@search
@given(pair=pairs(largest_logit=5))
def test_zero_only_at_equality(name, pair):
    p, q = pair
    if D.total_variation(p, q).item() > 1e-3:
        assert D.get_divergence(name)(p, q).item() > 1e-8


@every_divergence
@search
@given(pair=pairs(zeros=True), random=st.randoms(use_true_random=False))
def test_names_of_tokens_do_not_matter(name, pair, random):
    p, q = pair
    order = random.sample(range(len(p)), len(p))
    # adaptive_kl's head is one of several where the teacher's probabilities tie.
    if name != "adaptive_kl" or len(p.unique()) == len(p):
        shuffled = D.get_divergence(name)(p[order], q[order]).item()
        assert shuffled == pytest.approx(D.get_divergence(name)(p, q).item(), rel=1e-9, abs=1e-12)


@search
@given(pair=pairs(zeros=True))
def test_reverse_is_forward_with_the_roles_exchanged(pair):
    p, q = pair
    assert D.forward_kl(p, q).item() == D.reverse_kl(q, p).item()


@search
@given(pair=pairs(zeros=True), beta=shares)
def test_jensen_shannon_symmetry_and_bound(pair, beta):
    p, q = pair
    value = D.jensen_shannon(p, q, beta=beta).item()
    assert value == pytest.approx(D.jensen_shannon(q, p, beta=1 - beta).item(), rel=1e-9, abs=1e-12)
    entropy_of_the_choice = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert value <= entropy_of_the_choice + 1e-12 <= math.log(2) + 2e-12


@search
@given(pair=pairs(largest_logit=2))
def test_jensen_shannon_goes_to_zero_and_its_ratios_to_the_two_kls(pair):
    p, q = pair
    small = 1e-7  # the rest of the ratio is small/2 · chi², and chi² <= e^8 for these logits
    assert D.jensen_shannon(p, q, beta=small).item() < 1e-5
    ratio = D.jensen_shannon(p, q, beta=small).item() / small
    assert ratio == pytest.approx(D.forward_kl(p, q).item(), abs=1e-3)
    ratio = D.jensen_shannon(p, q, beta=1 - small).item() / small
    assert ratio == pytest.approx(D.reverse_kl(p, q).item(), abs=1e-3)


@search
@given(pair=pairs(zeros=True), alpha=shares)
def test_skews_at_their_ends_and_their_bound(pair, alpha):
    p, q = pair
    for skew, plain in (
        (D.skew_forward_kl, D.forward_kl),
        (D.skew_reverse_kl, D.reverse_kl),
    ):
        assert skew(p, q, alpha=0).item() == plain(p, q).item()
        assert skew(p, q, alpha=1).item() == 0
        value = skew(p, q, alpha=alpha).item()
        assert value <= -math.log(alpha) + 1e-12
        assert value <= (1 - alpha) * plain(p, q).item() + 1e-12  # convexity in the mixture


@search
@given(pair=pairs(zeros=True))
def test_total_variation_is_a_probability_and_pinsker_holds(pair):
    p, q = pair
    distance = D.total_variation(p, q).item()
    assert 0 <= distance <= 1 + 1e-12
    for kl in (D.forward_kl(p, q).item(), D.reverse_kl(p, q).item()):
        assert 2 * distance**2 <= kl + 1e-12


# adaptive_kl's head changes with the tokens; alpha_beta is an f-divergence on one line alone.
@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, {}) for name in D.DIVERGENCES if name not in ("adaptive_kl", "alpha_beta")]
    + [("alpha_beta", {"alpha": alpha, "beta": 1 - alpha}) for alpha in (0, 0.3, 0.5, 1)],
)
@search
@given(pair=pairs())
def test_telling_two_tokens_apart_no_more_never_raises_it(name, settings, pair):
    """The data-processing inequality, which makes a top-k cache with one tail bucket a bound."""
    p, q = pair
    merged = [torch.cat([logp[:2].logsumexp(0)[None], logp[2:]]) for logp in (p, q)]
    divergence = D.get_divergence(name, **settings)
    fine, coarse = divergence(p, q).item(), divergence(*merged).item()
    assert coarse <= fine + 1e-9 * max(1, fine)


@search
@given(pair=pairs(), alpha=st.floats(0, 2), beta=st.floats(0.01, 2))
def test_alpha_beta_is_positive_and_its_roles_exchange_with_its_exponents(pair, alpha, beta):
    p, q = pair
    value = D.alpha_beta(p, q, alpha, beta).item()
    assert value >= 0
    assert value == pytest.approx(D.alpha_beta(q, p, beta, alpha).item(), rel=1e-9, abs=1e-12)


def test_alpha_beta_is_no_f_divergence_where_its_exponents_do_not_sum_to_one():
    """Two words that agree in ratio: merged they count for more."""
    p, q = torch.tensor([[0.25, 0.25, 0.5], [0.4, 0.4, 0.2]]).double().log()
    merged = [torch.tensor([logp[:2].exp().sum(), logp[2].exp()]).log() for logp in (p, q)]
    assert D.alpha_beta(*merged, 1, 1).item() > 1.2 * D.alpha_beta(p, q, 1, 1).item()


@search
@given(pair=pairs(zeros=True), threshold=st.floats(0, 3))
def test_entropy_aware_kl_is_reverse_kl_or_the_sum_of_both(pair, threshold):
    p, q = pair
    reverse, forward = D.reverse_kl(p, q).item(), D.forward_kl(p, q).item()
    value = D.entropy_aware_kl(p, q, threshold).item()
    assert value in (reverse, reverse + forward)


@search
@given(pair=pairs(zeros=True), mu=st.floats(0, 1))
def test_adaptive_kl_lies_between_the_two_kls(pair, mu):
    p, q = pair
    two = sorted((D.forward_kl(p, q).item(), D.reverse_kl(p, q).item()))
    value = D.adaptive_kl(p, q, mu=mu).item()
    assert two[0] * (1 - 1e-9) - 1e-12 <= value <= two[1] * (1 + 1e-9) + 1e-12
