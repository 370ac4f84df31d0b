import numpy as np
import pytest

from book import fit_pictures
from toy.mixture_fit import POST_TARGET, fit


@pytest.fixture(scope="module")
def single():
    """Forward and reverse fit of one Gaussian."""
    return [
        fit(POST_TARGET, [2.0], 1.0, divergence=name, steps=6)
        for name in ("forward_kl", "reverse_kl")
    ]


@pytest.fixture(scope="module")
def twins():
    return [
        fit(POST_TARGET, [-1.0, 1.0], 5.0, divergence=name, steps=6)
        for name in ("forward_kl", "reverse_kl")
    ]


def test_snapshots_show_each_student_whole(single):
    figure = fit_pictures.fit_snapshots(*single, steps=[0, 5])
    for index, ax in enumerate(figure.axes):
        trajectory, step = single[index // 2], (0, 5)[index % 2]
        assert ax.get_title() == f"step {step}: {trajectory.kl[step, 0]:.3f} nats"
        x, q = ax.lines[0].get_data()
        assert q.max() < ax.get_ylim()[1]
        assert x[q.argmax()] == pytest.approx(trajectory.mu[step, 0, 0].item(), abs=0.02)
        peak = 1 / (trajectory.sigma[step, 0, 0].item() * np.sqrt(2 * np.pi))
        assert q.max() == pytest.approx(peak, rel=1e-3)


def test_a_slider_shows_one_step(single):
    assert len(fit_pictures.fit_at_step(*single, step=3).axes) == 2


def test_curves_are_the_divergences(single):
    (ax,) = fit_pictures.divergence_curves(dict(zip("ab", single, strict=True))).axes
    for line, trajectory in zip(ax.lines, single, strict=False):
        np.testing.assert_allclose(line.get_ydata(), trajectory.kl[:, 0])


def test_landscapes_agree_with_the_fits_that_cross_them(twins):
    forward, reverse = twins
    figure = fit_pictures.twin_landscapes({"f": forward}, {"r": reverse})
    for ax, trajectory in zip(figure.axes, twins, strict=False):
        d, sigma = ax.lines[0].get_data()
        np.testing.assert_allclose(d, trajectory.mu[:-1, 0, 1])  # the means stay at ∓d
        np.testing.assert_allclose(sigma, trajectory.sigma[1:, 0, 0])
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [
            "f" if trajectory is forward else "r"
        ]
