"""Checks the answers to ``problems.py``, each against something independent.

    pytest teach/check_problems.py                             # yours
    ANSWERS=teach/answers.py pytest teach/check_problems.py    # another file's

A failure says what was expected and what came. A problem without an answer is skipped.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from book.exercises import fitting_gaussians, token_and_sequence, two_divergences

PROBLEMS = Path(__file__).with_name("problems.py")


class Answers:
    """The functions of a file; one that is not written yet skips its check."""

    def __init__(self, path: Path) -> None:
        spec = importlib.util.spec_from_file_location("answers_to_check", path)
        assert spec is not None, f"{path} is no Python file"
        assert spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self.module, name)

        def answer(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except NotImplementedError as error:
                pytest.skip(f"not answered yet: {error}")

        return answer


@pytest.fixture(scope="module")
def of() -> Answers:
    return Answers(Path(os.environ.get("ANSWERS", PROBLEMS)))


def distribution(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.manual_seed(seed), dtype=torch.float64).softmax(-1)


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.manual_seed(seed), dtype=torch.float64)


def close(found, expected, what: str) -> None:
    """What is compared, and how far apart it is."""
    torch.testing.assert_close(found, expected, msg=lambda said: f"{what}: {said}")


def test_1_forward_kl(of):
    p, q = distribution(3, 7), distribution(3, 7, seed=1)
    by_hand = [
        sum(a.item() * (a / b).log().item() for a, b in zip(*rows, strict=True))
        for rows in zip(p, q, strict=True)
    ]
    torch.testing.assert_close(of.forward_kl(p, q), torch.tensor(by_hand, dtype=torch.float64))
    fair, sure = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
    torch.testing.assert_close(of.forward_kl(sure, fair), torch.tensor(2.0).log())
    assert of.forward_kl(fair, sure) == torch.inf, "the student gives 0 to a token of the teacher"
    assert of.forward_kl(sure, sure) == 0, "a token with p = 0 adds nothing"


def test_2_reverse_kl_gradient(of):
    two_divergences.reverse_kl_gradient(of.reverse_kl_gradient)


def test_3_loss_at_temperature(of):
    t, z = logits(8), logits(8, seed=1)
    p, q = (t / 3).softmax(-1), (z / 3).softmax(-1)
    torch.testing.assert_close(of.loss_at_temperature(t, z, 3.0), 9 * (p * (p / q).log()).sum())
    # For large T it is half the variance of the logits' difference.
    torch.testing.assert_close(
        of.loss_at_temperature(t, z, 1e4), (t - z).var(correction=0) / 2, rtol=1e-3, atol=0
    )


def test_4_mean_over_trained_tokens(of):
    values = logits(4, 6)
    labels = torch.tensor(  # token ids begin at 0; prompts come before answers, padding after
        [
            [0, 1, 2, 3, 4, 5],
            [-100, -100, 0, -100, -100, -100],
            [-100, 7, 0, 2, -100, -100],
            [-100, -100, -100, -100, -100, -100],
        ]
    )
    expected = torch.cat([values[0], values[1, 2:3], values[2, 1:4]]).mean()
    for cut in ([4], [1, 3], [2, 2], [1, 1, 1, 1]):
        found = of.mean_over_trained_tokens([*values.split(cut)], [*labels.split(cut)])
        close(found, expected, f"micro-batches of {cut} rows")


def test_5_estimates(of):
    p, z = distribution(6), logits(6, seed=1).requires_grad_()
    q_logp = z.log_softmax(-1)
    q = q_logp.detach().exp()
    reverse = (q * (q_logp.detach() - p.log())).sum()
    k1, k2, k3 = of.estimates(p.log(), q_logp)
    close((q * k1).sum(), reverse, "the mean of k1 is D(q‖p)")
    close((q * k3).sum(), reverse, "the mean of k3 is D(q‖p)")
    assert (k3 >= 0).all(), "k3 is never negative"
    log_ratio = q_logp - p.log()
    close(k1, log_ratio, "k1 of each token")
    close(k2, log_ratio**2 / 2, "k2 of each token")
    of_kl = q * (q_logp.detach() - p.log() - reverse)
    for name, value, expected in (("k1", k1, 0 * q), ("k2", k2, of_kl), ("k3", k3, q - p)):
        (mean,) = torch.autograd.grad((q * value).sum(), z, retain_graph=True)
        close(mean, expected, f"the mean of {name}'s gradient")


def test_6_topk_forward_kl(of):
    p, q = distribution(10), distribution(10, seed=1)
    top, ids = p.topk(3)
    rest = [i for i in range(10) if i not in ids.tolist()]
    expected = (top * (top / q[ids]).log()).sum()
    expected += p[rest].sum() * (p[rest].sum() / q[rest].sum()).log()
    torch.testing.assert_close(of.topk_forward_kl(top, q, ids), expected)


def test_7_shared_log_probabilities(of):
    z = logits(2, 12)
    found = of.shared_log_probabilities(z, 9)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(found - found[:, :1], z[:, :9] - z[:, :1])


def test_8_divergence_of_answers(of):
    token_and_sequence.divergence_of_answers(of.divergence_of_answers)


def test_9_best_gaussian(of):
    fitting_gaussians.best_gaussian(of.best_gaussian)
