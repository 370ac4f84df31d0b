"""The policy gradient's weights in a language so small that every answer can be enumerated.

An answer is up to 3 tokens of a vocabulary of 4; token 0 ends it. A model is a hidden state for
each prefix and a head. The expected estimator is one call of the fused loss on all answers, each
weighted by its probability, and the exact gradient is autograd's of Σ q·log(q/p) over answers.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kd_lab.divergences import reverse_kl
from kd_lab.loss import LiveDistribution, Objective, Weights, distillation_loss
from kd_lab.trainers.policy_gradient_weights import (
    PositionWeights,
    future_rewards,
    mixture_logp,
    policy_gradient_weights,
)

VOCABULARY, END, WIDTH = 4, 0, 3
UNBIASED = {"length_normalised": False, "whole_products": True}


class Language:
    """All answers of up to ``longest`` tokens, padded: tokens, mask and prefix numbers, [B, T]."""

    def __init__(self, longest: int) -> None:
        words = [token for token in range(VOCABULARY) if token != END]
        ended = [
            (*start, END) for n in range(longest) for start in itertools.product(words, repeat=n)
        ]
        self.answers = ended + list(itertools.product(words, repeat=longest))
        prefixes = sorted({answer[:t] for answer in self.answers for t in range(len(answer))})
        self.num_prefixes = len(prefixes)
        shape = len(self.answers), longest
        self.tokens = torch.zeros(shape, dtype=torch.long)
        self.prefixes = torch.zeros(shape, dtype=torch.long)
        self.mask = torch.zeros(shape, dtype=torch.bool)
        for b, answer in enumerate(self.answers):
            self.mask[b, : len(answer)] = True
            self.tokens[b, : len(answer)] = torch.tensor(answer)
            for t in range(len(answer)):
                self.prefixes[b, t] = prefixes.index(answer[:t])

    def model(self, seed: int) -> tuple[Tensor, Tensor]:
        """Hidden states [prefixes, WIDTH] and a head [VOCABULARY, WIDTH], float64."""
        draw = torch.Generator().manual_seed(seed)
        hidden = torch.randn(self.num_prefixes, WIDTH, generator=draw, dtype=torch.float64)
        head = torch.randn(VOCABULARY, WIDTH, generator=draw, dtype=torch.float64)
        return hidden.requires_grad_(), head.requires_grad_()

    def token_logp(self, hidden: Tensor, head: Tensor) -> Tensor:
        """log of each answer's tokens given what came before, [B, T]; 0 in the padding."""
        logp = (hidden @ head.t()).log_softmax(-1)  # [prefixes, V]
        return logp[self.prefixes, self.tokens] * self.mask


class Setting:
    """A language with a student, a teacher, and their log-probabilities."""

    def __init__(self, longest: int = 3) -> None:
        self.language = Language(longest)
        self.student = self.language.model(seed=0)
        self.teacher = self.language.model(seed=1)
        self.student_logp = self.language.token_logp(*self.student)
        self.teacher_logp = self.language.token_logp(*self.teacher).detach()

    def exact_gradient(self) -> list[Tensor]:
        log_q, log_p = self.student_logp.sum(1), self.teacher_logp.sum(1)
        reverse_kl = (log_q.exp() * (log_q - log_p)).sum()
        return torch.autograd.grad(reverse_kl, self.student, retain_graph=True)

    def gradient(self, weights: PositionWeights, answers: slice = slice(None)) -> list[Tensor]:
        """The gradient of Σ w_D·reverse KL + w_C·cross-entropy, through the fused loss."""
        mask = self.language.mask[answers]
        where = self.language.prefixes[answers][mask]
        hidden, head = self.student
        weights = PositionWeights(*(weight[answers] for weight in weights))
        loss = distillation_loss(
            LiveDistribution(hidden[where], head),
            LiveDistribution(self.teacher[0][where], self.teacher[1]),
            self.language.tokens[answers][mask],
            Objective(reverse_kl, Weights(weights.divergence[mask], weights.cross_entropy[mask])),
            vocab_size=len(head),
        ).loss
        return torch.autograd.grad(loss, self.student)

    def estimator(self, probabilities: Tensor, long: bool = True, **settings) -> list[Tensor]:
        """The estimator's mean over answers of these probabilities, [B]."""
        single, later = policy_gradient_weights(
            self.student_logp, self.teacher_logp, self.language.mask, **settings
        )
        each = probabilities[:, None]
        return self.gradient(PositionWeights(each * single, each * later * long))

    def written_with(self, teacher_mix: float, writer_logp: Tensor | None = None) -> Tensor:
        """The probabilities of all answers under a·p + (1-a)·q, token by token, [B]."""
        writer = self.student_logp if writer_logp is None else writer_logp
        logp = mixture_logp(writer.detach(), self.teacher_logp, teacher_mix) * self.language.mask
        probabilities = logp.sum(1).exp()
        assert probabilities.sum().item() == pytest.approx(1, abs=1e-12)  # nothing is forgotten
        return probabilities


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """Relative to the size of what is expected."""
    gap = squared([a - b for a, b in zip(found, expected, strict=True)])
    return (gap / squared(expected)).sqrt().item()


def squared(gradient: list[Tensor]) -> Tensor:
    return torch.stack([part.square().sum() for part in gradient]).sum()


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_on_policy_the_expected_estimator_is_the_gradient_of_the_sequence_kl(longest):
    setting = Setting(longest)
    found = setting.estimator(setting.written_with(0), length_normalised=False)
    assert distance(found, setting.exact_gradient()) < 1e-10


def test_the_single_step_alone_takes_the_distribution_of_prefixes_as_given():
    """Biased: it is the gradient of the same sum with the probabilities of prefixes held fixed."""
    setting = Setting()
    found = setting.estimator(setting.written_with(0), long=False)
    assert distance(found, setting.exact_gradient()) > 0.1
    language = setting.language
    student, teacher = (
        (hidden @ head.t()).log_softmax(-1) for hidden, head in (setting.student, setting.teacher)
    )
    at_prefix = (student.exp() * (student - teacher.detach())).sum(-1)[language.prefixes]  # [B, T]
    fixed = (setting.written_with(0)[:, None] * at_prefix * language.mask).sum()
    assert distance(found, torch.autograd.grad(fixed, setting.student)) < 1e-10


@pytest.mark.parametrize("teacher_mix", [0.2, 0.7])
def test_whole_products_of_importance_weights_are_unbiased(teacher_mix):
    setting = Setting()
    found = setting.estimator(
        setting.written_with(teacher_mix), teacher_mix=teacher_mix, **UNBIASED
    )
    assert distance(found, setting.exact_gradient()) < 1e-10


def test_one_product_for_the_whole_future_is_biased():
    """R_{t+1} weighed by the product up to y_t, not each reward by the product up to it."""
    setting = Setting()
    log_q, log_p, mask = setting.student_logp.detach(), setting.teacher_logp, setting.language.mask
    product = ((log_q - mixture_logp(log_q, log_p, 0.2)) * mask).cumsum(1).exp()
    long = product * future_rewards(log_p - log_q, mask, length_normalised=False)
    written = setting.written_with(0.2)[:, None]
    found = setting.gradient(PositionWeights(written * product, written * long))
    assert distance(found, setting.exact_gradient()) > 1e-2


def test_the_last_factor_alone_is_exact_for_one_token_and_biased_from_two():
    for longest, biased in (1, False), (2, True), (3, True):
        setting = Setting(longest)
        found = setting.estimator(
            setting.written_with(0.2), teacher_mix=0.2, length_normalised=False
        )
        gap = distance(found, setting.exact_gradient())
        assert gap > 1e-2 if biased else gap < 1e-10


def test_the_papers_weight_on_the_single_step_only_adds_variance():
    """Same expectation with q(y_t)/p̃(y_t) as with 1, and a larger spread over answers."""
    setting = Setting()
    written = setting.written_with(0.5)
    log_q = setting.student_logp.detach()
    factor = (log_q - mixture_logp(log_q, setting.teacher_logp, 0.5)).exp()
    nothing, expected, spread = torch.zeros_like(factor), [], []
    for weights in torch.ones_like(factor), factor:
        mean = setting.gradient(PositionWeights(written[:, None] * weights, nothing))
        squares = [
            squared(setting.gradient(PositionWeights(weights, nothing), slice(b, b + 1)))
            for b in range(len(written))
        ]
        expected.append(mean)
        spread.append((written * torch.stack(squares)).sum() - squared(mean))
    assert distance(*expected) < 1e-10
    assert spread[1] > 1.01 * spread[0]


def test_answers_of_an_older_student_are_unbiased_with_whole_products():
    setting = Setting()
    writer_logp = setting.language.token_logp(*setting.language.model(seed=2)).detach()
    found = setting.estimator(
        setting.written_with(0.3, writer_logp),
        teacher_mix=0.3,
        writer_logp=writer_logp,
        **UNBIASED,
    )
    assert distance(found, setting.exact_gradient()) < 1e-10


def test_length_normalisation_and_clipped_rewards_are_biased():
    setting = Setting()
    exact, written = setting.exact_gradient(), setting.written_with(0)
    assert distance(setting.estimator(written, length_normalised=True), exact) > 1e-2
    clipped = {"length_normalised": False, "reward_clip": 0.5}
    assert distance(setting.estimator(written, **clipped), exact) > 1e-2


rewards_of_answers = st.lists(
    st.lists(st.floats(-50, 50), min_size=1, max_size=6), min_size=1, max_size=4
)


@given(answers=rewards_of_answers, start=st.integers(0, 3), normalised=st.booleans())
def test_future_rewards_against_a_loop(answers, start, normalised):
    """Answers of any length anywhere between a prompt and padding."""
    longest = start + max(map(len, answers)) + 1
    rewards = torch.full((len(answers), longest), 7.0, dtype=torch.float64)
    mask = torch.zeros(len(answers), longest, dtype=torch.bool)
    for b, answer in enumerate(answers):
        mask[b, start : start + len(answer)] = True
        rewards[b, start : start + len(answer)] = torch.tensor(answer, dtype=torch.float64)
    found = future_rewards(rewards, mask, normalised)
    for b, answer in enumerate(answers):
        for t in range(len(answer)):
            later = answer[t + 1 :]
            expected = sum(later) / (len(later) or 1 if normalised else 1)
            assert found[b, start + t].item() == pytest.approx(expected, abs=1e-9)
        assert found[b, start + len(answer) - 1] == 0


def test_what_lies_outside_the_mask_is_not_looked_at():
    setting = Setting()
    mask = setting.language.mask
    logps = setting.student_logp.detach(), setting.teacher_logp
    soiled = [logp.masked_fill(~mask, math.nan) for logp in logps]
    settings = {"teacher_mix": 0.2, "reward_clip": 1.0, "ratio_clip": 0.2, "whole_products": True}
    for clean, found in zip(
        policy_gradient_weights(*logps, mask, **settings),
        policy_gradient_weights(*soiled, mask, **settings),
        strict=True,
    ):
        assert torch.equal(clean, found)
        assert not found[~mask].any()


@pytest.mark.parametrize("teacher_mix", [0.2, 0.9])
def test_the_last_factor_has_a_bound(teacher_mix):
    """q/p̃ ≤ 1/(1-a) however sure the student is of what the teacher never says."""
    teacher_logp = torch.tensor([[-200.0, -1.0]])
    student_logp = torch.tensor([[-1e-9, -1.0]])
    weights, plain = (
        policy_gradient_weights(
            student_logp, teacher_logp, torch.ones(1, 2, dtype=torch.bool), teacher_mix=a
        )
        for a in (teacher_mix, 0)
    )
    assert torch.equal(plain.cross_entropy, torch.zeros(1, 2, dtype=torch.float64))
    assert (weights.divergence == 1).all()
    factor = (student_logp - mixture_logp(student_logp, teacher_logp, teacher_mix)).exp()
    assert factor[0, 0].item() == pytest.approx(1 / (1 - teacher_mix))
    assert factor[0, 1].item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("ratio", "later_reward", "kept"),
    [
        (1.25, 1.0, False),  # already likelier, and pushed up
        (1.25, -1.0, True),  # likelier, and pulled back
        (0.75, -1.0, False),
        (0.75, 1.0, True),
        (1.15, 1.0, True),
        (0.85, -1.0, True),
    ],
)
def test_a_ratio_that_has_left_its_range_has_no_gradient(ratio, later_reward, kept):
    """As autograd has it for PPO's min(ρ·A, clip(ρ, 1-ε, 1+ε)·A) with A = R_{t+1}."""
    writer_logp = torch.tensor([[-2.0, -2.0]], dtype=torch.float64)
    student_logp = writer_logp + torch.tensor([[math.log(ratio), 0.0]], dtype=torch.float64)
    teacher_logp = student_logp + torch.tensor([[0.0, later_reward]], dtype=torch.float64)
    weights = policy_gradient_weights(
        student_logp, teacher_logp, torch.ones(1, 2, dtype=torch.bool),
        writer_logp=writer_logp, ratio_clip=0.2,
    )  # fmt: skip
    logp = student_logp[0, 0].clone().requires_grad_()
    rho = (logp - writer_logp[0, 0]).exp()
    torch.minimum(rho * later_reward, rho.clamp(0.8, 1.2) * later_reward).backward()
    assert weights.cross_entropy[0, 0].item() == pytest.approx(logp.grad.item(), abs=1e-12)
    assert (weights.cross_entropy[0, 0] != 0) == kept
    assert weights.divergence[0, 0] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.ones(2, 2, dtype=torch.bool)}, r"must all be \[B, T\]"),
        ({"teacher_mix": 1.0}, r"teacher_mix must lie in \[0, 1\), not 1.0"),
        ({"reward_clip": 0.0}, "reward_clip must be positive"),
        ({"ratio_clip": 1.2}, "ratio_clip must lie in"),
    ],
)
def test_refusals(change, message):
    logp = torch.full((2, 3), -1.0)
    arguments = {"mask": torch.ones(2, 3, dtype=torch.bool)} | change
    with pytest.raises(ValueError, match=message):
        policy_gradient_weights(logp, logp, **arguments)
