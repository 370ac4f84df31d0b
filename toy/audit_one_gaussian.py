"""One Gaussian and a target of two modes: the phase portrait of forward and reverse KL.

A student N(μ, σ²) follows the gradient of its divergence in (μ, log σ), a flow over a plane. This
part finds the flow's fixed points numerically and sorts them by the eigenvalues of its Jacobian. It
draws the separatrices, the curves that flow into a saddle. It finds the basins by following the
flow from every point of a lattice. It also keeps Adam's first steps under each divergence from the
post's two starts. Nothing is random.
"""

import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from scipy.integrate import solve_ivp
from scipy.optimize import root

from kd_lab.house_style import Figure, house_style
from toy.mixture import Grid
from toy.mixture_fit import POST_TARGET, Objective, fit

# Those of the audit: a later divergence of the registry would change its results.
DIVERGENCES = (
    "forward_kl", "reverse_kl", "jensen_shannon", "adaptive_kl", "skew_forward_kl",
    "skew_reverse_kl", "total_variation",
)  # fmt: skip
MU_RANGE = (-6.0, 6.0)
LOG_SIGMA_RANGE = (math.log(0.25), math.log(7.0))
GRID = Grid(-48.0, 48.0, 961)  # holds every student of the window
POST_STARTS = {"forward_kl": (5.0, 5.0), "reverse_kl": (5.0, 1.0)}  # (mu, sigma)


@dataclass(frozen=True)
class Settings:
    """``lattice``: starts along μ and along log σ; ``steps``: of Adam, at which to look."""

    lattice: tuple[int, int] = (28, 20)
    steps: tuple[int, ...] = (1, 10, 100)


FULL = Settings()
QUICK = Settings(lattice=(7, 4), steps=(1, 10))


def units(settings: Settings) -> dict[str, partial]:
    """The pieces of this part, by name; they can be run in any order."""
    return {
        **{name: partial(portrait, settings, name) for name in POST_STARTS},
        "first_steps": partial(first_steps, settings),
    }


def portrait(settings: Settings, divergence: str) -> dict[str, Any]:
    """Fixed points, separatrices and basins of the gradient flow of one divergence.

    Returns:
        - ``fixed_points``: mu, sigma, divergence (nats), kind and the flow's eigenvalues of each.
        - ``separatrices``: curves of (mu, log sigma), as [2][N].
        - ``lattice``: mu, log_sigma and ``basin`` as lists of equal length; ``basin`` is the index
          of the fixed point that the flow reaches from there.
    """
    flow = Flow(divergence)
    points = flow.fixed_points()
    mu, log_sigma = np.meshgrid(
        np.linspace(*MU_RANGE, settings.lattice[0]),
        np.linspace(*LOG_SIGMA_RANGE, settings.lattice[1]),
    )
    starts = np.stack([mu.ravel(), log_sigma.ravel()], axis=-1)
    places = np.array([[point["mu"], math.log(point["sigma"])] for point in points])
    ends = np.array([flow.follow(start)[:, -1] for start in starts])  # [N, 2]
    distance = np.linalg.norm(ends[:, None] - places, axis=-1)
    if distance.min(-1).max() > 0.1:
        raise RuntimeError(f"{divergence}: the flow ends away from every fixed point found")
    return {
        "fixed_points": points,
        "separatrices": [
            curve
            for place, point in zip(places, points, strict=True)
            if point["kind"] == "saddle"
            for curve in flow.separatrices(place)
        ],
        "lattice": {
            "mu": starts[:, 0].tolist(),
            "log_sigma": starts[:, 1].tolist(),
            "basin": distance.argmin(-1).tolist(),
        },
    }


class Flow:
    """d(μ, log σ)/dt = -∇ divergence, for one Gaussian against the post's target."""

    def __init__(self, divergence: str) -> None:
        self.objective = Objective(POST_TARGET, (1.0,), divergence, grid=GRID)

    def value(self, z: torch.Tensor) -> torch.Tensor:
        return self.objective(z[..., :1], z[..., 1:])

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """The velocity at points (μ, log σ), [..., 2]."""
        points = torch.tensor(np.reshape(z, (-1, 2)), requires_grad=True)
        self.value(points).sum().backward()
        assert points.grad is not None
        return -points.grad.numpy().reshape(np.shape(z))

    def jacobian(self, z: np.ndarray) -> np.ndarray:
        hessian = torch.autograd.functional.hessian(
            lambda point: self.value(point[None])[0], torch.tensor(z)
        )
        return -hessian.numpy()

    def fixed_points(self) -> list[dict[str, Any]]:
        """Roots of the velocity inside the window, sought from a lattice of first guesses."""
        found: list[np.ndarray] = []
        for mu in np.linspace(*MU_RANGE, 7):
            for log_sigma in np.linspace(*LOG_SIGMA_RANGE, 5):
                try:
                    solution = root(self, [mu, log_sigma], jac=self.jacobian)
                except ValueError:  # the search has left what the grid can hold
                    continue
                z = solution.x
                inside = all(
                    low <= value <= high
                    for value, (low, high) in zip(z, (MU_RANGE, LOG_SIGMA_RANGE), strict=True)
                )
                new = all(np.abs(z - other).max() > 1e-3 for other in found)
                if inside and new and np.abs(self(z)).max() < 1e-8:
                    found.append(z)
        return [self._describe(z) for z in sorted(found, key=lambda z: z[0])]

    def _describe(self, z: np.ndarray) -> dict[str, Any]:
        eigenvalues = np.linalg.eigvalsh(self.jacobian(z))
        kinds = {0: "stable", 1: "saddle", 2: "unstable"}
        return {
            "mu": float(z[0]),
            "sigma": math.exp(z[1]),
            "divergence": float(self.value(torch.tensor(z)[None])[0]),
            "kind": kinds[int((eigenvalues > 0).sum())],
            "eigenvalues": eigenvalues.tolist(),
        }

    def follow(self, start: np.ndarray, until: float = 60.0) -> np.ndarray:
        """The path from ``start``, [2, N], until it is near a fixed point (slowest rate: 0.1)."""
        flow = solve_ivp(
            lambda _, z: self(z), (0, until), start, method="LSODA", rtol=1e-4, atol=1e-4
        )
        return flow.y

    def separatrices(self, saddle: np.ndarray) -> list[list[list[float]]]:
        """The two curves that flow into a saddle, followed backwards to the window's edge."""
        eigenvalues, vectors = np.linalg.eigh(self.jacobian(saddle))
        low, high = np.array([MU_RANGE, LOG_SIGMA_RANGE]).T

        def backwards(_: float, z: np.ndarray) -> np.ndarray:
            velocity = -self(np.clip(z, low, high))
            return velocity / np.linalg.norm(velocity)  # the same curve, at speed 1

        def edge(_: float, z: np.ndarray) -> float:
            return min((z - low).min(), (high - z).min())

        edge.terminal = True  # type: ignore[attr-defined]
        side = 1e-3 * vectors[:, eigenvalues.argmin()]
        return [
            solve_ivp(
                backwards, (0, 12), saddle + way * side, events=edge, max_step=0.05
            ).y.tolist()
            for way in (-1, 1)
        ]


def first_steps(settings: Settings) -> dict[str, Any]:
    """The first direction of gradient and Adam (learning rate 0.1) under each divergence.

    For both starts of the post's Figure 1 it keeps the flow's velocity there, and mu, sigma and the
    divergence after some steps of Adam.
    """
    result: dict[str, Any] = {}
    for divergence in DIVERGENCES:
        flow = Flow(divergence)
        for mu, sigma in POST_STARTS.values():
            fitted = fit(
                POST_TARGET, [mu], sigma, divergence=divergence, steps=max(settings.steps) + 1
            )
            velocity_mu, velocity_log_sigma = flow(np.array([mu, math.log(sigma)])).tolist()
            result.setdefault(divergence, []).append(
                {
                    "start": {"mu": mu, "sigma": sigma},
                    "velocity": {"mu": velocity_mu, "log_sigma": velocity_log_sigma},
                    "after": [
                        {
                            "steps": steps,
                            "mu": float(fitted.mu[steps - 1, 0, 0]),
                            "sigma": float(fitted.sigma[steps, 0, 0]),
                            "divergence": float(fitted.kl[steps, 0]),
                        }
                        for steps in settings.steps
                    ],
                }
            )
    return result


def summarise(settings: Settings, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The units' results with basins as shares, and closed forms beside the numbers found."""
    portraits = {}
    for name in POST_STARTS:
        basin = np.array(results[name]["lattice"]["basin"])
        points = [
            {**point, "basin_share": float((basin == index).mean())}
            for index, point in enumerate(results[name]["fixed_points"])
        ]
        portraits[name] = {**results[name], "fixed_points": points}
    forward = [p for p in portraits["forward_kl"]["fixed_points"] if p["kind"] == "stable"]
    reverse = [p for p in portraits["reverse_kl"]["fixed_points"] if p["kind"] == "stable"]
    return {
        "settings": {**asdict(settings), "mu_range": MU_RANGE, "log_sigma_range": LOG_SIGMA_RANGE},
        "portraits": portraits,
        "closed_forms": [
            {
                "what": "forward KL matches the target's mean 0 and deviation sqrt(9.25)",
                "expected": [0.0, math.sqrt(9.25)],
                "found": [[point["mu"], point["sigma"]] for point in forward],
            },
            {
                "what": "reverse KL on a single mode costs ln 2",
                "expected": math.log(2),
                "found": sorted(point["divergence"] for point in reverse)[:2],
            },
        ],
        "first_steps": results["first_steps"],
    }


def findings(summary: dict[str, Any]) -> list[str]:
    """The portraits' findings in a few lines; all numbers come out of ``summary``."""
    lines = []
    for name, portrait in summary["portraits"].items():
        points = [
            f"{point['kind']} ({point['mu']:z.2f}, {point['sigma']:.2f}) at "
            f"{point['divergence']:.4f} nats"
            + (f" with {point['basin_share']:.0%} of the window" if point["basin_share"] else "")
            for point in portrait["fixed_points"]
        ]
        lines.append(f"One Gaussian, {name}: fixed points (mu, sigma) {'; '.join(points)}.")
    return lines


@house_style()
def draw_portraits(summary: dict[str, Any], path: Path) -> None:
    """Forward and reverse KL side by side: flow, fixed points, separatrices and basins."""
    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    for axes, (name, portrait) in zip(both, summary["portraits"].items(), strict=True):
        _draw_portrait(axes, name, portrait)
    both[0].set_ylabel("σ (log scale)")
    handles, labels = both[1].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=160)


def _draw_portrait(axes: Axes, divergence: str, portrait: dict[str, Any]) -> None:
    lattice, points = portrait["lattice"], portrait["fixed_points"]
    stable = [index for index, point in enumerate(points) if point["kind"] == "stable"]
    tints = ["#56B4E9", "#E69F00", "#CC79A7", "#009E73"]
    for tint, index in zip(tints, stable, strict=False):
        ends_here = np.array(lattice["basin"]) == index
        axes.scatter(
            np.array(lattice["mu"])[ends_here],
            np.array(lattice["log_sigma"])[ends_here],
            s=8,
            color=tint,
            linewidths=0,
            label="start, coloured by where the flow ends",
        )

    mu = np.linspace(*MU_RANGE, 49)
    log_sigma = np.linspace(*LOG_SIGMA_RANGE, 33)
    velocity = Flow(divergence)(np.stack(np.meshgrid(mu, log_sigma), axis=-1))  # [33, 49, 2]
    axes.streamplot(
        mu,
        log_sigma,
        velocity[..., 0],
        velocity[..., 1],
        color="#707070",
        density=0.7,
        linewidth=0.7,
    )
    for curve in portrait["separatrices"]:
        axes.plot(*curve, color="black", linestyle=":", label="separatrix")

    for kind, marker, face in (("stable", "o", "black"), ("saddle", "D", "white")):
        chosen = [point for point in points if point["kind"] == kind]
        axes.scatter(
            [point["mu"] for point in chosen],
            [math.log(point["sigma"]) for point in chosen],
            marker=marker,
            s=50,
            facecolor=face,
            edgecolor="black",
            zorder=4,
            label={"stable": "stable fixed point", "saddle": "saddle"}[kind],
        )
    start_mu, start_sigma = POST_STARTS[divergence]
    fitted = fit(POST_TARGET, [start_mu], start_sigma, divergence=divergence, steps=100)
    axes.scatter(start_mu, math.log(start_sigma), marker="x", color="#D55E00", s=60, zorder=4)
    axes.plot(
        [start_mu, *fitted.mu[:-1, 0, 0].tolist()],
        fitted.sigma[:, 0, 0].log().tolist(),
        color="#D55E00",
        linestyle="-",
        linewidth=2.4,
        label="Adam from the post's start (×)",
    )
    direction, formula = divergence.split("_")[0], {"forward_kl": "D(p‖q)", "reverse_kl": "D(q‖p)"}
    axes.set(
        title=f"{direction.capitalize()} KL, {formula[divergence]}",
        xlabel="μ",
        xlim=MU_RANGE,
        ylim=LOG_SIGMA_RANGE,
    )
    ticks = (0.25, 0.5, 1, 2, 3, 5)
    axes.set_yticks(np.log(ticks), [f"{tick:g}" for tick in ticks])


RESULTS = "one_gaussian.json"
PICTURES = {"phase_portrait.png": draw_portraits}
