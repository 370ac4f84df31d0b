"""Estimators of the gradient of sequence-level reverse KL, held against the exact one.

Each estimator weights two terms at every word of an answer: the reverse KL of the next word (w_D)
and -log q of the written word (w_C). kd_lab/trainers/policy_gradient_weights.py has the functions.
The reward is r_t = log p(y_t | y_<t) - log q(y_t | y_<t). The weights are

    differentiated_sample   0, -1              the gradient of log q(y) - log p(y) for a sampled y
    whole_return            0, r_1 + … + r_T   REINFORCE (Williams 1992)
    reward_to_go            0, r_t + … + r_T   no word changes the rewards before it
    mean_baseline           … less its mean over answers, at each position
    perfect_critic          … less its mean over what can follow y_<t
    single_step             1, R_{t+1}         MiniLLM: the next word's part by its sum over words
    single_step_baseline    1, R_{t+1} less its mean, at each position
    length_normalised       1, R_{t+1} / (T - t)
    on_policy               1, 0               on-policy distillation, as in GKD
    mixed_whole_products    1, R_{t+1}         written with a teacher share, whole products of q/p̃
    mixed_last_factor       1, R_{t+1}         the same, the factor of y_t alone
    minillm                 1, R_{t+1} / (T - t), mixed, the factor of y_t alone, as published

On an ``AnswerTree`` each estimator's *mean* is a sum over all cut answers, so its bias is exact. We
measure its *spread* on sampled answers, whose gradients we take one by one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cosine_similarity

from evidence.gradients.answer_tree import AnswerTree, Paths
from kd_lab.divergences import Divergence, reverse_kl
from kd_lab.trainers.policy_gradient_weights import (
    PositionWeights,
    future_rewards,
    policy_gradient_weights,
)

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel

TEACHER_MIX = 0.2  # MiniLLM's
TOP = 8  # the student's likeliest words, where a baseline sums over no more
ANSWERS_AT_A_TIME = 64  # whose gradients are taken together
ROWS = 16  # gradients that are compared together


class Written(NamedTuple):
    """Answers, their log-probabilities under both models, and a critic's values; [B, T] each."""

    student_logp: Tensor
    teacher_logp: Tensor
    mask: Tensor
    value: Tensor  # E[r_t + … + r_T | y_<t]
    mean_value: Tensor  # the same over all answers that have a t-th word
    mean_later: Tensor  # E[r_{t+1} + … + r_T], likewise
    next_kl: Tensor  # D(q(· | y_<t)‖p(· | y_<t)): of the word to come
    next_kl_top: Tensor  # the part of its sum that the student's ``TOP`` likeliest words have


class Estimator(NamedTuple):
    """The weights of an answer's words, and the teacher's share in the writing distribution."""

    label: str
    weights: Callable[[Written], PositionWeights]
    teacher_mix: float = 0.0


def score_function(
    returns: Callable[[Written, Tensor], Tensor],
) -> Callable[[Written], PositionWeights]:
    """The score function alone, weighted by a function of the rewards [B, T]."""

    def weights(written: Written) -> PositionWeights:
        rewards = (written.teacher_logp - written.student_logp) * written.mask
        w_c = returns(written, rewards) * written.mask
        return PositionWeights(torch.zeros_like(w_c), w_c)

    return weights


def _to_go(written: Written, rewards: Tensor) -> Tensor:
    return rewards + future_rewards(rewards, written.mask, length_normalised=False)


def _trainers(
    teacher_mix: float = 0.0, *, length_normalised: bool = False, whole_products: bool = False
) -> Callable[[Written], PositionWeights]:
    def weights(written: Written) -> PositionWeights:
        return policy_gradient_weights(
            written.student_logp,
            written.teacher_logp,
            written.mask,
            teacher_mix=teacher_mix,
            length_normalised=length_normalised,
            whole_products=whole_products,
        )

    return weights


def _with_baseline(written: Written) -> PositionWeights:
    divergence, later = _trainers()(written)
    return PositionWeights(divergence, later - written.mean_later * written.mask)


def _without_long_part(written: Written) -> PositionWeights:
    divergence, later = _trainers()(written)
    return PositionWeights(divergence, torch.zeros_like(later))


ESTIMATORS = {
    "differentiated_sample": Estimator(
        "sampled log-ratio, differentiated",
        score_function(lambda written, rewards: -torch.ones_like(rewards)),
    ),
    "whole_return": Estimator(
        "REINFORCE, whole return",
        score_function(lambda written, rewards: rewards.sum(1, keepdim=True).expand_as(rewards)),
    ),
    "reward_to_go": Estimator("reward-to-go", score_function(_to_go)),
    "mean_baseline": Estimator(
        "reward-to-go, mean baseline",
        score_function(lambda written, rewards: _to_go(written, rewards) - written.mean_value),
    ),
    "perfect_critic": Estimator(
        "reward-to-go, perfect critic",
        score_function(lambda written, rewards: _to_go(written, rewards) - written.value),
    ),
    "single_step": Estimator("single step + R", _trainers()),
    "single_step_baseline": Estimator("single step + R, mean baseline", _with_baseline),
    "length_normalised": Estimator(
        "single step + R, length-normalised", _trainers(length_normalised=True)
    ),
    "on_policy": Estimator("single step alone (on-policy distillation)", _without_long_part),
    "mixed_whole_products": Estimator(
        "teacher-mixed, whole products", _trainers(TEACHER_MIX, whole_products=True), TEACHER_MIX
    ),
    "mixed_last_factor": Estimator(
        "teacher-mixed, last factor", _trainers(TEACHER_MIX), TEACHER_MIX
    ),
    "minillm": Estimator(
        "MiniLLM: mixed, last factor, length-normalised",
        _trainers(TEACHER_MIX, length_normalised=True),
        TEACHER_MIX,
    ),
}


class Quality(NamedTuple):
    """An estimator's errors against the exact gradient, relative to that gradient's length."""

    bias: float  # ‖E g - ∇D‖ / ‖∇D‖, by enumeration
    cosine_of_mean: float  # of E g and ∇D
    variance: float  # E‖g - E g‖² / ‖∇D‖² of one answer's g; of a mean over n the n-th part
    error: dict[int, float]  # n -> root of the mean of ‖ḡ - ∇D‖² / ‖∇D‖², ḡ over n answers
    cosine: dict[int, float]  # n -> mean of cos(ḡ, ∇D)


def measure_estimators(
    student: "PreTrainedModel",
    tree: AnswerTree,
    *,
    samples: int,
    averaged: tuple[int, ...],
    seed: int,
    estimators: Mapping[str, Estimator] = ESTIMATORS,
    means: Mapping[str, Tensor] | None = None,
) -> dict[str, Quality]:
    """Every estimator's bias and spread, by its name.

    Args:
        student: the tree's own student; its trained parameters are those that require a gradient.
        samples: the number of answers that each writer draws.
        averaged: numbers n of answers that a step averages over; each divides ``samples``.
        estimators: which ones.
        means: what ``expected_gradients`` gave for them, if it was asked before.
    Raises:
        ValueError: an n that does not divide ``samples``.
    """
    for n in averaged:
        if n < 1 or samples % n:
            raise ValueError(f"averaged: {n} does not divide the {samples} samples")
    exact = exact_gradient(student, tree)
    size = exact.norm()
    drawn = {mix: tree.sample(samples, mix, seed) for mix in (0.0, TEACHER_MIX)}
    if means is None:
        means = expected_gradients(student, tree, estimators=estimators)
    found = {}
    for name, estimator in estimators.items():
        mean = means[name]
        each = sampled_gradients(student, tree, drawn[estimator.teacher_mix], estimator)  # [S, d]
        blocks = {n: each.unflatten(0, (-1, n)).mean(1) if n > 1 else each for n in averaged}
        found[name] = Quality(
            bias=float((mean - exact).norm() / size),
            cosine_of_mean=_cosines(mean[None], exact).item(),
            variance=float(_squared_errors(each, mean, size).mean()),
            error={
                n: float(_squared_errors(of_n, exact, size).mean().sqrt())
                for n, of_n in blocks.items()
            },
            cosine={n: float(_cosines(of_n, exact).mean()) for n, of_n in blocks.items()},
        )
    return found


def exact_gradient(student: "PreTrainedModel", tree: AnswerTree) -> Tensor:
    """The gradient of the cut answers' reverse KL by autograd, all parameters in a row: [d]."""
    return _gradient(student, tree.kl_by_depth().sum())


def prefix_gradient(student: "PreTrainedModel", tree: AnswerTree, divergence: Divergence) -> Tensor:
    """The gradient of a divergence of each next word, at prefixes that are held fixed: [d].

    The prefixes are the student's. Of reverse KL it is the first part of the exact gradient.
    """
    here = divergence(tree.teacher_logp, tree.student_logp)
    return _gradient(student, (tree.log_mass.detach().exp() * here).sum())


def expected_gradients(
    student: "PreTrainedModel",
    tree: AnswerTree,
    names: Sequence[str] | None = None,
    estimators: Mapping[str, Estimator] = ESTIMATORS,
) -> dict[str, Tensor]:
    """Each estimator's mean over all cut answers, by its name: [d]; None: of all estimators."""
    logp, names = tree.student_logp, tuple(estimators if names is None else names)
    mixes = {estimators[name].teacher_mix for name in names}
    mixed_logp = {mix: tree.written_with(mix).flatten().double() for mix in mixes}
    # Of each estimator, w_D on each node and w_C on each word of each node, times q(prefix):
    on_nodes = {name: torch.zeros(len(logp), dtype=torch.float64) for name in names}
    on_words = {name: torch.zeros(logp.numel(), dtype=torch.float64) for name in names}
    know = what_is_known(tree)
    for paths in tree.leaves():
        answers, mask = know(paths), paths.mask
        written = mask.flatten().nonzero().squeeze(-1)  # indices: faster than the mask, each time
        places = paths.nodes * logp.shape[1] + paths.words
        node, place = paths.nodes.flatten()[written], places.flatten()[written]
        probability = {
            mix: torch.where(mask, writer_logp[places], 0.0).sum(1, keepdim=True).exp()
            for mix, writer_logp in mixed_logp.items()
        }
        for name in names:
            estimator = estimators[name]
            weights = estimator.weights(answers)
            of_paths = probability[estimator.teacher_mix]
            for sums, at, weight in (
                (on_nodes[name], node, weights.divergence),
                (on_words[name], place, weights.cross_entropy),
            ):
                sums.index_add_(0, at, (of_paths * weight).flatten()[written])
    node_kl = tree.node_kl()
    return {
        name: _gradient(
            student,
            (on_nodes[name].to(logp) * node_kl).sum()
            - (on_words[name].to(logp).view_as(logp) * logp).sum(),
        )
        for name in names
    }


def sampled_gradients(
    student: "PreTrainedModel", tree: AnswerTree, paths: Paths, estimator: Estimator
) -> Tensor:
    """The estimator's gradient at each of these answers alone: [B, d]."""
    weights = estimator.weights(what_is_known(tree)(paths))
    trained = {
        name: parameter.detach()
        for name, parameter in student.named_parameters()
        if parameter.requires_grad
    }
    longest, vocabulary = paths.words.shape[1], tree.student_logp.shape[1]
    prompt = torch.tensor(tree.prompt)
    settings = {"use_cache": False, "logits_to_keep": longest}

    def loss(parameters, words, teacher_logp, w_d, w_c):  # type: ignore[no-untyped-def]
        ids = torch.cat([prompt, words[:-1]])[None]
        output = functional_call(student, parameters, (ids,), settings)
        logp = output.logits[0, :, :vocabulary].log_softmax(-1)  # [T, V]
        of_words = logp.gather(-1, words[:, None]).squeeze(-1)
        return (w_d * reverse_kl(teacher_logp, logp) - w_c * of_words).sum()

    one_by_one = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))
    rows = []
    for block in torch.arange(len(paths.words)).split(ANSWERS_AT_A_TIME):
        weights_of_block = (weight[block].to(tree.teacher_logp) for weight in weights)
        with sdpa_kernel(SDPBackend.MATH):  # the others cannot be mapped over examples
            gradients = one_by_one(
                trained,
                paths.words[block],
                tree.teacher_logp[paths.nodes[block]],
                *weights_of_block,
            )
        rows.append(torch.cat([gradients[name].flatten(1) for name in trained], 1))
    return torch.cat(rows)


def what_is_known(tree: AnswerTree) -> Callable[[Paths], Written]:
    """A function from answers to all that an estimator may use."""
    value = tree.values()
    reached = tree.log_mass.detach().double().exp()
    mass, total = torch.zeros(2, tree.ancestors.shape[1], dtype=torch.float64).index_add_(
        1, tree.depth, torch.stack([reached, reached * value])
    )  # of answers that have a t-th word, and E[r_t + …] over them times it
    mass = mass.clamp(min=torch.finfo(torch.float64).tiny)
    # Of the answers with a t-th word, those that end there have nothing of what comes later.
    mean_value, later = total / mass, torch.cat([total[1:], total.new_zeros(1)]) / mass
    student_logp, teacher_logp = tree.student_logp.detach(), tree.teacher_logp
    next_kl, terms = tree.node_kl().detach().double(), student_logp.exp()
    terms = (terms * (student_logp - teacher_logp)).double()
    likeliest = student_logp.topk(min(TOP, student_logp.shape[1])).indices
    next_kl_top = terms.gather(-1, likeliest).sum(-1)

    def know(paths: Paths) -> Written:
        longest = paths.words.shape[1]
        student, teacher = (
            logp[paths.nodes, paths.words].double() for logp in (student_logp, teacher_logp)
        )
        return Written(
            student, teacher, paths.mask, value[paths.nodes],
            mean_value[:longest].expand_as(student), later[:longest].expand_as(student),
            next_kl[paths.nodes], next_kl_top[paths.nodes],
        )  # fmt: skip

    return know


def _gradient(student: "PreTrainedModel", loss: Tensor) -> Tensor:
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, trained, retain_graph=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def _squared_errors(gradients: Tensor, due: Tensor, size: Tensor) -> Tensor:
    """‖g - due‖² / size² of each g of [B, d]; a few at a time, which stay in a core's cache."""
    parts = gradients.split(ROWS)
    return torch.cat([(part - due).div_(size).square_().sum(1) for part in parts])


def _cosines(gradients: Tensor, exact: Tensor) -> Tensor:
    """The cosine of each of [B, d] and one of [d]."""
    parts = gradients.split(ROWS)
    return torch.cat([cosine_similarity(part, exact[None], dim=1) for part in parts])
