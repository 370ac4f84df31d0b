import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from book import pictures
from kd_lab.divergences import forward_kl, reverse_kl

WORDS = ["sunny", "cloudy", "purple"]
P = torch.tensor([0.6, 0.39, 0.01], dtype=torch.float64).log()
Q = torch.tensor([0.7, 0.1, 0.2], dtype=torch.float64).log()


def heights(ax) -> list[list[float]]:
    return [[bar.get_height() for bar in container] for container in ax.containers]


def curve(ax, label: str) -> np.ndarray:
    (line,) = [line for line in ax.lines if line.get_label().startswith(label)]
    return np.asarray(line.get_ydata())


def test_distributions_and_terms_add_up_to_the_two_kls():
    distributions, terms = pictures.distributions_and_terms(WORDS, P, Q).axes
    np.testing.assert_allclose(heights(distributions), [P.exp(), Q.exp()])
    sums = [forward_kl(P, Q).item(), reverse_kl(P, Q).item()]
    np.testing.assert_allclose(np.sum(heights(terms), axis=1), sums)
    labels = [text.get_text() for text in terms.get_legend().get_texts()]
    assert labels == [f"p log p/q, sum {sums[0]:.3f}", f"q log q/p, sum {sums[1]:.3f}"]


def test_two_coins_cost_nothing_only_when_they_agree():
    (ax,) = pictures.two_coins(p=0.3, q=0.9).axes
    for direction in ("forward", "reverse"):
        values = curve(ax, direction)
        assert values.min() == pytest.approx(0, abs=1e-5)
        assert abs(np.linspace(0.001, 0.999, 500)[values.argmin()] - 0.3) < 0.002


def test_the_arrows_point_down_the_gradient():
    forward, reverse = pictures.logit_pushes(WORDS, P, Q).axes
    for ax, divergence in ((forward, forward_kl), (reverse, reverse_kl)):
        logits = Q.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(divergence(P, logits.log_softmax(-1)), logits)
        tips = [segment[1][1] for segment in ax.collections[0].get_segments()]
        np.testing.assert_allclose(tips, -gradient)
        assert [text.get_text() for text in ax.texts] == [f"{push:+.3f}" for push in -gradient]
        assert min(ax.get_ylim()) < min(tips) < max(tips) < max(ax.get_ylim())


def test_descents_show_the_step_asked_for():
    paths = [torch.stack([Q, P]), torch.stack([Q, (P + Q).log_softmax(-1)])]
    axes = pictures.descents(P, *paths, step=1).axes
    for ax, path in zip(axes, paths, strict=True):
        np.testing.assert_allclose(curve(ax, "after 1 steps"), path[1].exp())
        np.testing.assert_allclose(curve(ax, "student q at the start"), Q.exp())


def test_best_gaussians_are_named_with_their_price():
    (ax,) = pictures.best_gaussians(half_distance=3, left_weight=0.9).axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[2] == r"reverse KL: $\mu$ = -3.00, $\sigma$ = 0.50, 0.105 nats"
    assert curve(ax, "reverse KL").max() == pytest.approx(0.798, abs=1e-3)  # 1 / (0.5 √(2π))
    assert curve(ax, "reverse KL").max() < ax.get_ylim()[1]


def test_a_notebook_shows_each_picture_once():
    before = plt.get_fignums()
    pictures.two_coins()
    assert plt.get_fignums() == before
