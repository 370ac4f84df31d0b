"""The tree against every answer of a three-word language, each scored on its own."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from transformers import Qwen2ForCausalLM

from evidence.gradients import answer_tree
from evidence.gradients.answer_tree import grow_tree
from tests.helpers.little_tree import END, LONGEST, PROMPT, STUDENT, TEACHER, WORDS, little_tree


def all_answers(longest: int = LONGEST) -> list[tuple[int, ...]]:
    ended = [(*words, END) for n in range(longest) for words in itertools.product(WORDS, repeat=n)]
    return ended + list(itertools.product(WORDS, repeat=longest))


def log_prob(model: Qwen2ForCausalLM, answer: tuple[int, ...]) -> torch.Tensor:
    logits = model(torch.tensor([[*PROMPT, *answer]])).logits[0, len(PROMPT) - 1 : -1, :4]
    return logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None]).sum()


def brute_force_kl(cut_at: set[tuple[int, ...]]) -> torch.Tensor:
    """D(q‖p) of answers told apart only up to the first of their prefixes in ``cut_at``."""
    q, p = defaultdict(float), defaultdict(float)
    for answer in all_answers():
        cut = next((answer[:t] for t in range(1, 4) if answer[:t] in cut_at), answer)
        q[cut] += log_prob(STUDENT, answer).exp()
        p[cut] += log_prob(TEACHER, answer).exp().detach()
    assert sum(q.values()).item() == pytest.approx(1)
    return sum(q[cut] * (q[cut] / p[cut]).log() for cut in q)


@pytest.mark.parametrize("min_mass", [0.0, 0.05, 0.4])
def test_reverse_kl_and_its_gradient_against_all_answers(min_mass):
    tree = little_tree(min_mass)
    rare = {
        prefix
        for t in (1, 2)
        for prefix in itertools.product(WORDS, repeat=t)
        if log_prob(STUDENT, prefix).exp() < min_mass
    }
    assert len(rare) == {0.0: 0, 0.05: 7, 0.4: 10}[min_mass]
    expected, found = brute_force_kl(rare), tree.kl_by_depth().sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)  # norms are in float32
    for a, b in zip(
        torch.autograd.grad(found, list(STUDENT.parameters())),
        torch.autograd.grad(expected, list(STUDENT.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_kl_by_depth_adds_up_over_shorter_answers():
    by_depth = little_tree().kl_by_depth()
    for longest in (1, 2, 3):
        shorter = little_tree(longest=longest).kl_by_depth()
        torch.testing.assert_close(shorter, by_depth[:longest])


def test_leaves_are_all_answers_and_their_probabilities(monkeypatch):
    monkeypatch.setattr(answer_tree, "LEAVES", 8)  # so that there are several parts
    tree, found = little_tree(), {}
    parts = list(tree.leaves())
    assert len(parts) > 2
    for paths in parts:
        logp = tree.student_logp[paths.nodes, paths.words] * paths.mask
        for words, mask, of_answer in zip(paths.words, paths.mask, logp.sum(1), strict=True):
            found[tuple(words[mask].tolist())] = of_answer.item()
    assert set(found) == set(all_answers())
    for answer in all_answers():
        assert found[answer] == pytest.approx(log_prob(STUDENT, answer).item(), abs=1e-6)


def test_values_are_the_rewards_to_come():
    """At the root minus the KL; at each node against the answers that go through it."""
    tree = little_tree()
    values = tree.values()
    assert values[0].item() == pytest.approx(-tree.kl_by_depth().sum().item())
    (paths,) = tree.leaves()
    student, teacher = (
        (logp.detach()[paths.nodes, paths.words] * paths.mask)
        for logp in (tree.student_logp, tree.teacher_logp)
    )
    probability, rewards = student.sum(1).exp(), teacher - student
    for node in range(len(values)):
        at = (paths.nodes == node) & paths.mask  # [B, T], once in each answer through it
        to_go = (rewards * (at.cumsum(1) > 0)).sum(1)
        through = at.any(1)
        mean = (probability * to_go)[through].sum() / probability[through].sum()
        assert values[node].item() == pytest.approx(mean.item(), abs=1e-6)


def test_mass_cut():
    assert little_tree(longest=1).mass_cut(END) == pytest.approx(
        1 - log_prob(STUDENT, (END,)).exp().item()
    )
    ended = sum(log_prob(STUDENT, answer).exp() for answer in all_answers() if answer[-1] == END)
    assert little_tree().mass_cut(END) == pytest.approx(1 - ended.item())


@pytest.mark.parametrize("teacher_mix", [0.0, 0.3])
def test_samples_follow_the_distribution(teacher_mix):
    tree, count = little_tree(0.05), 20_000
    drawn = tree.sample(count, teacher_mix, seed=0)
    logp = tree.written_with(teacher_mix)
    (paths,) = tree.leaves()
    names = [tuple(w[m].tolist()) for w, m in zip(paths.words, paths.mask, strict=True)]
    probabilities = (logp[paths.nodes, paths.words] * paths.mask).sum(1).exp()
    assert probabilities.sum().item() == pytest.approx(1)
    times = defaultdict(int)
    for words, mask in zip(drawn.words, drawn.mask, strict=True):
        times[tuple(words[mask].tolist())] += 1
    assert set(times) <= set(names)
    for name, probability in zip(names, probabilities.tolist(), strict=True):
        spread = math.sqrt(count * probability * (1 - probability))
        assert abs(times[name] - count * probability) < 4.5 * spread + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": []}, "the prompt is empty"),
        ({"longest": 0}, "longest must be at least 1"),
        ({"min_mass": 1.5}, r"min_mass lie in \[0, 1\], not 3 and 1.5"),
    ],
)
def test_refusals(change, message):
    settings = {"prompt": PROMPT, "longest": 3, "min_mass": 0.0} | change
    with pytest.raises(ValueError, match=message):
        grow_tree(STUDENT, TEACHER, end_token=END, vocab_size=4, **settings)


def test_a_tree_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(answer_tree, "NODES", 12)
    with pytest.raises(ValueError, match="more than 12 prefixes of up to 2 words have a mass"):
        little_tree()
