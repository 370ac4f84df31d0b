"""What the notebooks show: pictures of two distributions and of what each KL makes of them.

Every function takes plain numbers or log-probabilities and returns a Figure. pyplot does not know
the figure. So a notebook shows it once, as a cell's value or under a slider.
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from kd_lab.divergences import forward_kl, get_divergence, reverse_kl
from kd_lab.house_style import Figure, house_style
from toy.best_gaussian import best_gaussian
from toy.mixture import Mixture

FORWARD, REVERSE = "#0072B2", "#D55E00"  # also teacher and student
FORWARD_NAME, REVERSE_NAME = r"forward KL, $D(p\,\Vert\,q)$", r"reverse KL, $D(q\,\Vert\,p)$"


@house_style()
def distributions_and_terms(
    words: Sequence[str], teacher_logp: Tensor, student_logp: Tensor
) -> Figure:
    """Two distributions [V] as bars, and beside them what each word adds to each KL."""
    p, q = teacher_logp.exp(), student_logp.exp()
    figure, (distributions, terms) = _panels(2)
    _pairs_of_bars(distributions, words, p, q, ("teacher p", "student q"))
    distributions.set(title="two distributions of the next word", ylabel="probability")
    forward, reverse = (
        forward_kl(teacher_logp, student_logp),
        reverse_kl(teacher_logp, student_logp),
    )
    _pairs_of_bars(
        terms,
        words,
        p * (teacher_logp - student_logp),
        q * (student_logp - teacher_logp),
        (f"p log p/q, sum {forward:.3f}", f"q log q/p, sum {reverse:.3f}"),
    )
    terms.axhline(0, color="black", lw=1, ls="-")
    terms.set(title="what each word adds", ylabel="nats")
    return figure


@house_style()
def two_coins(p: float = 0.5, q: float = 0.9) -> Figure:
    """Both KLs between a coin that shows heads with probability p and one with q, for all q."""
    grid = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)
    teacher_logp = torch.tensor([p, 1 - p], dtype=torch.float64).log()
    student_logp = torch.stack([grid, 1 - grid], dim=-1).log()  # [500, 2]
    at_q = torch.tensor([q, 1 - q], dtype=torch.float64).log()
    figure, (ax,) = _panels(1)
    for divergence, color, style, name in (
        (forward_kl, FORWARD, "-", FORWARD_NAME),
        (reverse_kl, REVERSE, "--", REVERSE_NAME),
    ):
        value = divergence(teacher_logp, at_q).item()
        label = f"{name} = {value:.3f}"
        ax.plot(grid, divergence(teacher_logp, student_logp), color=color, ls=style, label=label)
        ax.plot(q, value, "o", color=color)
    ax.axvline(p, color="#5A5A5A", lw=1, ls=":")
    ax.set(title=f"teacher: heads with p = {p:.2f}", xlabel="student's q of heads", ylabel="nats")
    ax.set(xlim=(0, 1), ylim=(0, 2.5))
    ax.legend(loc="upper center")
    return figure


@house_style()
def logit_pushes(words: Sequence[str], teacher_logp: Tensor, student_logp: Tensor) -> Figure:
    """One arrow a word: where gradient descent moves its logit; both distributions are [V]."""
    p, q = teacher_logp.exp(), student_logp.exp()
    by_forward = (p - q).numpy()
    reverse = reverse_kl(teacher_logp, student_logp)
    by_reverse = (q * (reverse - (student_logp - teacher_logp))).numpy()
    figure, axes = _panels(2, sharey=True)
    for ax, push, color, name in (
        (axes[0], by_forward, FORWARD, "forward KL pushes by p - q"),
        (axes[1], by_reverse, REVERSE, "reverse KL by q(KL - log q/p)"),
    ):
        ax.vlines(range(len(words)), 0, push, color=color, lw=2.5, ls="-")
        for place, height in enumerate(push.tolist()):
            up = height > 0
            ax.plot(place, height, marker="^" if up else "v", color=color, ms=8)
            ax.annotate(
                f"{height:+.3f}",
                (place, height),
                (0, 7 if up else -7),
                textcoords="offset points",
                ha="center",
                va="bottom" if up else "top",
                fontsize=9,
            )
        ax.axhline(0, color="black", lw=1, ls="-")
        ax.set(title=name, xlim=(-0.6, len(words) - 0.4))
        ax.set_xticks(range(len(words)), words, rotation=30, ha="right")
        ax.grid(axis="x", visible=False)
    reach = max(1.3 * np.abs([by_forward, by_reverse]).max(), 0.05)
    axes[0].set(ylabel="push on the logit", ylim=(-reach, reach))
    return figure


@house_style()
def descents(
    teacher_logp: Tensor, forward_path: Tensor, reverse_path: Tensor, step: int = 10
) -> Figure:
    """Teacher and student after some steps under each KL, on a logarithmic axis.

    Args:
        teacher_logp: [V], sorted from likely to unlikely.
        forward_path, reverse_path: the student's log q at every step, [steps, V].
        step: the step that is drawn.
    """
    rank = np.arange(1, len(teacher_logp) + 1)
    figure, axes = _panels(2, sharey=True)
    for ax, path, color, name in (
        (axes[0], forward_path, FORWARD, FORWARD_NAME),
        (axes[1], reverse_path, REVERSE, REVERSE_NAME),
    ):
        ax.plot(rank, teacher_logp.exp(), color="black", ls="-", label="teacher p")
        ax.plot(rank, path[0].exp(), color="#8C8C8C", ls=":", label="student q at the start")
        ax.plot(rank, path[step].exp(), color=color, ls="--", label=f"after {step} steps")
        ax.set(title=name, xlabel="word, by the teacher's rank", yscale="log", ylim=(2e-5, 1.5))
        ax.legend(loc="lower left")
    axes[0].set(ylabel="probability")
    return figure


@house_style()
def best_gaussians(half_distance: float = 3.0, left_weight: float = 0.5) -> Figure:
    """A target of two Gaussians (sigma 1/2) and the one Gaussian that each KL likes best."""
    target = Mixture((-half_distance, half_distance), (0.5, 0.5), (left_weight, 1 - left_weight))
    x = torch.linspace(-6, 6, 601, dtype=torch.float64)
    figure, (ax,) = _panels(1)
    ax.fill_between(x, target.log_density(x).exp(), color="#D0D0D0", label="teacher p")
    for name, color, style in (("forward_kl", FORWARD, "-"), ("reverse_kl", REVERSE, "--")):
        mu, sigma, value = best_gaussian(target, get_divergence(name))
        density = Mixture((mu,), (sigma,), (1.0,)).log_density(x).exp()
        words = name.replace("_kl", " KL")
        label = rf"{words}: $\mu$ = {mu:.2f}, $\sigma$ = {sigma:.2f}, {max(value, 0):.3f} nats"
        ax.plot(x, density, color=color, ls=style, label=label)
    ax.set(xlabel="x", ylabel="density", xlim=(-6, 6), ylim=(0, 1.25))
    ax.legend(loc="upper center")
    return figure


def _panels(count: int, sharey: bool = False) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(7.4 if count > 1 else 6.2, 3.6), layout="constrained")
    axes = figure.subplots(1, count, sharey=sharey, squeeze=False)
    return figure, axes[0]


def _pairs_of_bars(
    ax: Axes, words: Sequence[str], left: Tensor, right: Tensor, labels: tuple[str, str]
) -> None:
    place = np.arange(len(words))
    ax.bar(place - 0.2, left.numpy(), 0.38, color=FORWARD, label=labels[0])
    ax.bar(
        place + 0.2,
        right.numpy(),
        0.38,
        color=REVERSE,
        hatch="///",
        ec="white",
        lw=0,
        label=labels[1],
    )
    ax.set_xticks(place, words, rotation=30, ha="right")
    ax.grid(axis="x", visible=False)
    ax.legend(loc="upper right")
