"""Fit a Gaussian-mixture student q to a mixture target p, and keep every step.

The post's Figures 1 and 2 are two of the possible fits. Any divergence of ``kd_lab.divergences``
drives the fit, with any optimiser of ``torch.optim``, from any start; many starts make one batch.
Means and log-sigmas are trained; the student's weights stay as they are.

The densities, summed on an even grid, are a vocabulary (see ``toy.mixture``). So the functions that
compare a teacher's and a student's next token compare p and q here, in float64 and in log space. At
every step the fit checks that the grid holds the mass.

``post_numerics=True`` repeats the post's own arithmetic instead: float32, linspace(-20, 20, 10000),
densities rather than their logarithms, and 1e-10 inside the logarithm.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from kd_lab.divergences import get_divergence
from toy.mixture import DEFAULT_GRID, Grid, Mixture, OffEveryGrid, check_mass, log_density

Numbers = float | Sequence[float] | Sequence[Sequence[float]] | Tensor

# These look at all starts of a batch together, so that one start would steer another.
COUPLES_STARTS = ("Adafactor", "LBFGS", "Muon")

POST_TARGET = Mixture((-3.0, 3.0), (0.5, 0.5), (0.5, 0.5))


@dataclass(frozen=True)
class Trajectory:
    """One fit: T steps of S starts with K components each.

    ``kl`` is the minimised divergence (nats; a probability for total variation). As in the boxes of
    the post's figures, ``mu`` is the mean after the step; ``sigma`` and ``kl`` are from before it.
    """

    divergence: str
    target: Mixture
    weight: tuple[float, ...]  # of the student, [K]
    step: Tensor  # [T]
    mu: Tensor  # [T, S, K]
    sigma: Tensor  # [T, S, K]
    kl: Tensor  # [T, S]

    def steps_to(self, threshold: float) -> list[int | None]:
        """For each start, the steps taken until ``kl`` first lay below ``threshold``, or None."""
        below = self.kl < threshold  # [T, S]
        first, ever = below.int().argmax(0).tolist(), below.any(0).tolist()
        return [step if arrived else None for step, arrived in zip(first, ever, strict=True)]

    def to_json(self, start: int = 0) -> dict[str, list]:
        """One start as lists: step [T], mu [T][K], sigma [T][K], kl [T]."""
        return {
            "step": self.step.tolist(),
            "mu": self.mu[:, start].tolist(),
            "sigma": self.sigma[:, start].tolist(),
            "kl": self.kl[:, start].tolist(),
        }


def fit(
    target: Mixture,
    mu: Numbers,
    sigma: Numbers,
    *,
    weight: Sequence[float] | None = None,
    divergence: str = "forward_kl",
    settings: Mapping[str, float | str] | None = None,
    optimizer: str = "Adam",
    lr: float = 0.1,
    steps: int,
    grid: Grid | None = None,
    post_numerics: bool = False,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Trajectory:
    """Descend from ``mu``, ``sigma`` for ``steps`` steps and keep all of them.

    Args:
        target: the teacher p.
        mu: the student's means at the start: [K], or [S, K] for S starts in one batch.
        sigma: its standard deviations: a number, [K] or [S, K].
        weight: its weights, [K]; equal by default. They are not trained.
        divergence, settings: as in ``get_divergence("adaptive_kl", mu=0.4)``.
        optimizer, lr: an optimiser of ``torch.optim`` by name, on (mu, log sigma).
        steps: the number of steps.
        grid: where the densities are summed; ``DEFAULT_GRID`` by default.
        post_numerics: the post's float32 arithmetic, for forward_kl and reverse_kl only.
        progress: wraps the range of steps, as ``tqdm`` or ``rich.progress.track`` do.
    Raises:
        ValueError: an unknown name; shapes or values that make no mixture; more than 1e-6 of the
            mass off the grid at some step; a divergence that is no longer finite; or an optimiser
            that mixes the starts of a batch.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    descent = Descent(
        target,
        mu,
        sigma,
        weight=weight,
        divergence=divergence,
        settings=settings,
        optimizer=optimizer,
        lr=lr,
        grid=grid,
        post_numerics=post_numerics,
    )
    with _threads(1 if len(descent.mu) < 32 else torch.get_num_threads()):
        taken = [descent.step() for _ in progress(range(steps))]
    mu_after, sigma_before, kl_before = (torch.stack(column) for column in zip(*taken, strict=True))
    return Trajectory(
        divergence=divergence,
        target=target,
        weight=descent.weight,
        step=torch.arange(steps),
        mu=mu_after,
        sigma=sigma_before,
        kl=kl_before,
    )


class Descent:
    """A fit taken step by step; starts that have arrived may be dropped.

    The arguments are those of ``fit``. ``mu`` and ``log_sigma`` are the parameters, [S, K].
    """

    def __init__(
        self,
        target: Mixture,
        mu: Numbers,
        sigma: Numbers,
        *,
        weight: Sequence[float] | None = None,
        divergence: str = "forward_kl",
        settings: Mapping[str, float | str] | None = None,
        optimizer: str = "Adam",
        lr: float = 0.1,
        grid: Grid | None = None,
        post_numerics: bool = False,
    ) -> None:
        start_mu, start_sigma = _starts(mu, sigma)  # [S, K]
        num_components = start_mu.shape[1]
        if weight is None:
            weight = [1 / num_components] * num_components
        self.weight = Mixture(tuple(start_mu[0]), tuple(start_sigma[0]), tuple(weight)).weight
        self.steps_taken = 0

        get_divergence(divergence, **(settings or {}))
        self.objective: Callable[[Tensor, Tensor], Tensor]
        if post_numerics:
            if grid is not None:
                raise ValueError("the post's numerics have a grid of their own; leave yours out")
            self.objective = post_objective(target, self.weight, divergence)
            start_mu, start_sigma = start_mu.float(), start_sigma.float()
        else:
            self.objective = Objective(
                target, self.weight, divergence, settings, DEFAULT_GRID if grid is None else grid
            )

        self.mu = start_mu.clone().requires_grad_()
        self.log_sigma = start_sigma.log().requires_grad_()
        self.optimizer = _make_optimizer(optimizer, [self.mu, self.log_sigma], lr)

    def step(self) -> tuple[Tensor, Tensor, Tensor]:
        """Take one step: mu after it [S, K], sigma before it [S, K], divergence before it [S]."""
        sigma_before = self.log_sigma.detach().exp()
        values: list[Tensor] = []

        def closure() -> float:
            self.optimizer.zero_grad()
            try:
                value = self.objective(self.mu, self.log_sigma)  # [S]
            except ValueError as refusal:
                advice = f"; {self._advice}" if isinstance(refusal, OffEveryGrid) else ""
                raise ValueError(f"step {self.steps_taken}, {refusal}{advice}") from None
            if not bool(value.isfinite().all()):
                raise ValueError(
                    f"step {self.steps_taken}: the divergence is not finite; {self._advice}"
                )
            values.append(value.detach())
            # Summed, not averaged: no start's gradient knows how many others there are.
            loss = value.sum()
            loss.backward()
            return loss.item()

        self.optimizer.step(closure)
        self.steps_taken += 1
        return self.mu.detach().clone(), sigma_before, values[0]

    @property
    def _advice(self) -> str:
        """What mends a fit that cannot go on; before the first step it is not the step's size."""
        return "try a smaller learning rate" if self.steps_taken else "try another start"

    def keep(self, starts: Tensor) -> None:
        """Continue with these starts only (a mask or indices into the batch)."""
        for parameter in (self.mu, self.log_sigma):
            state = self.optimizer.state[parameter]
            for name, value in state.items():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    state[name] = value[starts]
            parameter.grad = None
            parameter.data = parameter.data[starts]


class Objective:
    """The divergence of q from the target as a function of (mu, log_sigma), exact and in log space.

    Raises:
        ValueError: the target's mass does not lie on the grid.
    """

    def __init__(
        self,
        target: Mixture,
        weight: Sequence[float],
        divergence: str,
        settings: Mapping[str, float | str] | None = None,
        grid: Grid = DEFAULT_GRID,
    ) -> None:
        if not (grid.low < grid.high and grid.points >= 2):
            raise ValueError(f"a grid needs low < high and at least 2 points, not {tuple(grid)}")
        self.grid = grid
        self.x = torch.linspace(grid.low, grid.high, grid.points, dtype=torch.float64)
        self.divergence = get_divergence(divergence, **(settings or {}))
        self.log_weight = torch.tensor(weight, dtype=torch.float64).log()
        target_mu, target_sigma, target_weight = torch.tensor(
            [target.mu, target.sigma, target.weight], dtype=torch.float64
        )
        check_mass(grid, target_mu[None], target_sigma[None], target_weight, "the target")
        self.teacher_logp = target.log_density(self.x) + math.log(grid.spacing)  # [G]

    def __call__(self, mu: Tensor, log_sigma: Tensor) -> Tensor:
        """The divergence of each start, [S]; mu and log_sigma are [S, K] and get gradients.

        Raises:
            ValueError: a start's mass does not lie on the grid, or it is not finite.
        """
        check_mass(self.grid, mu.detach(), log_sigma.detach().exp(), self.log_weight.exp())
        student_logp = log_density(self.x, mu, log_sigma, self.log_weight)  # [S, G]
        return self.divergence(self.teacher_logp, student_logp + math.log(self.grid.spacing))


def post_objective(
    target: Mixture, weight: Sequence[float], divergence: str, x: Tensor | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """The post's arithmetic, Σ a·log((a + 1e-10) / (b + 1e-10))·dx: (mu, log_sigma) [S, K] -> [S].

    Args:
        x: an even grid, [G]; the sum has its dtype. By default it is the post's own grid.
    Raises:
        ValueError: a divergence other than forward_kl and reverse_kl.
    """
    if divergence not in ("forward_kl", "reverse_kl"):
        raise ValueError(f"the post's numerics know forward_kl and reverse_kl, not {divergence}")
    x = torch.linspace(-20, 20, 10000) if x is None else x
    dx = x[1] - x[0]

    def density(mu: Tensor, sigma: Tensor, weight: Sequence[float]) -> Tensor:
        mu, sigma = mu[..., None], sigma[..., None]  # [S, K, 1]
        height = 1 / (sigma * math.sqrt(2 * math.pi))
        component = height * torch.exp(-0.5 * ((x - mu) / sigma) ** 2)  # [S, K, G]
        return (x.new_tensor(weight)[:, None] * component).sum(1)

    p = density(x.new_tensor([target.mu]), x.new_tensor([target.sigma]), target.weight)  # [1, G]

    def objective(mu: Tensor, log_sigma: Tensor) -> Tensor:
        q = density(mu, log_sigma.exp(), weight)  # [S, G]
        a, b = (p, q) if divergence == "forward_kl" else (q, p)
        return (a * torch.log((a + 1e-10) / (b + 1e-10)) * dx).sum(-1)

    return objective


def _starts(mu: Numbers, sigma: Numbers) -> tuple[Tensor, Tensor]:
    """Means and sigmas as float64 [S, K], checked."""
    start_mu = torch.as_tensor(mu, dtype=torch.float64)
    start_sigma = torch.as_tensor(sigma, dtype=torch.float64)
    try:
        start_mu, start_sigma = torch.broadcast_tensors(torch.atleast_2d(start_mu), start_sigma)
    except RuntimeError:
        raise ValueError(
            f"sigma must be one number or of mu's shape {tuple(start_mu.shape)}, "
            f"not of shape {tuple(start_sigma.shape)}"
        ) from None
    if start_mu.ndim != 2 or start_mu.numel() == 0:
        raise ValueError(f"mu must be [K] or [S, K], not of shape {tuple(start_mu.shape)}")
    if not bool(start_mu.isfinite().all()):
        raise ValueError("mu must be finite")
    if not bool(((start_sigma > 0) & start_sigma.isfinite()).all()):
        raise ValueError(f"sigma must be positive, not {float(start_sigma.min()):g}")
    return start_mu, start_sigma


def _make_optimizer(name: str, parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
    known: dict[str, Any] = {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type)
        and issubclass(value, torch.optim.Optimizer)
        and key not in ("Optimizer", "SparseAdam")  # SparseAdam takes sparse gradients only
    }
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown optimiser {name!r}{hint} (known: {', '.join(sorted(known))})")
    if not 0 < lr < math.inf:
        raise ValueError(f"the learning rate must be positive, not {lr:g}")
    if name in COUPLES_STARTS and parameters[0].shape[0] > 1:
        raise ValueError(
            f"{name} mixes the starts of a batch; fit them one at a time, or take another optimiser"
        )
    return known[name](parameters, lr=lr)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Limit torch's threads: a second one does not speed up sums this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
