"""Checks of notebook 1's exercises, each against something independent of a solution."""

from collections.abc import Callable

import torch
from torch import Tensor

from book.exercises.expected import expect
from kd_lab.divergences import forward_kl, get_divergence, reverse_kl
from toy.best_gaussian import best_gaussian
from toy.mixture import Mixture
from toy.mixture_fit import POST_TARGET

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
Z = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)


def reverse_kl_gradient(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The gradient of D(q‖p) to the logits z [V]; autograd knows it."""
    random = torch.randn(2, 9, generator=torch.manual_seed(0), dtype=torch.float64)
    for p, z in ((P, Z), (random[0].softmax(-1), random[1])):
        logits = z.clone().requires_grad_()
        divergence = reverse_kl(p.log(), logits.log_softmax(-1))
        (expected,) = torch.autograd.grad(divergence, logits)
        q, divergence = z.softmax(-1), divergence.detach()
        mistakes = {
            "that is forward KL's": q - p,
            "the sum over all words is missing": q * (q / p).log(),
            "the factor q is missing": (q / p).log() - divergence,
            "its sign is turned": -expected,
        }
        where = f"p = {p.tolist()}, z = {z.tolist()}" if len(p) == 3 else "nine random words"
        expect(answer(p, z), expected, where, mistakes)


def costs_of_the_modes(answer: tuple[float, float]) -> None:
    """Nats of a student on the left mode, of weight 0.9, and on the right one; on a grid."""
    x = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    teacher = Mixture((-3, 3), (0.5, 0.5), (0.9, 0.1)).log_density(x)
    step = (x[1] - x[0]).log()
    on_the = {
        name: reverse_kl(teacher + step, Mixture((mu,), (0.5,), (1,)).log_density(x) + step)
        for name, mu in (("left", -3), ("right", 3))
    }
    mistakes = {f"that is the cost on the {name}": nats for name, nats in on_the.items()}
    mistakes |= {f"its sign is turned, on the {name}": -nats for name, nats in on_the.items()}
    for found, (name, nats) in zip(answer, on_the.items(), strict=True):
        expect(found, nats, f"on the {name}", mistakes, rtol=1e-2)


def where_it_jumps(answer: float) -> None:
    """The β of the Jensen-Shannon divergence at which the best Gaussian begins to choose."""
    beta = answer
    if not 0 < beta < 1:
        raise AssertionError(f"β = {beta:.12g} is not between 0 and 1")
    if not 0.22 <= beta <= 0.24:
        sigma = best_gaussian(POST_TARGET, get_divergence("jensen_shannon", beta=beta)).sigma
        does = "it still covers" if sigma > 1 else "it has already chosen"
        raise AssertionError(f"at β = {beta:.12g} the best Gaussian has σ = {sigma:.2f}: {does}")


def reverse_kl_of_torch(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Reverse KL by torch's own function, in nats."""
    teacher_logp, student_logp = P.log(), Z.log_softmax(-1)
    forward, reverse = (
        forward_kl(teacher_logp, student_logp),
        reverse_kl(teacher_logp, student_logp),
    )
    mistakes = {
        "that is forward KL": forward,
        "that is forward KL over the number of words": forward / len(P),
        "that is reverse KL over the number of words": reverse / len(P),
    }
    where = f"p = {P.tolist()} and q of the logits {Z.tolist()}"
    expect(answer(teacher_logp, student_logp), reverse, where, mistakes)
