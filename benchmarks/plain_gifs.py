"""The plain way to make the four GIFs: a loop over steps, a figure saved for every frame, imageio.

Written as one would write it in a notebook, and not slower on purpose: it is what ``toy.animation``
is measured against. Its numbers are exact sums, so they must be ours.
"""

import math
from pathlib import Path

import imageio.v3 as imageio
import matplotlib.pyplot as plt
import torch
from torch.distributions import Normal

# name: (direction, means at the start, sigma at the start, steps)
FITS = {
    "fwd_kl": ("forward_kl", [5.0], 5.0, 100),
    "rev_kl": ("reverse_kl", [5.0], 1.0, 100),
    "fwd_kl_dual": ("forward_kl", [-1.0, 1.0], 5.0, 500),
    "rev_kl_dual": ("reverse_kl", [-1.0, 1.0], 5.0, 500),
}


def draw_plain(folder: Path, frames: int = 100) -> dict[str, dict[str, list]]:
    """Fit and draw all four; the GIFs and their frames' PNGs go to ``folder``.

    Returns:
        for each GIF, step [T], mu [T][K] (after the step), sigma [T][K] and kl [T] (before it).
    """
    trajectories = {}
    for name, (direction, mu, sigma, steps) in FITS.items():
        trajectories[name] = fit_plain(direction, mu, sigma, steps)
        draw_frames(folder / f"{name}.gif", direction, trajectories[name], steps // frames)
    return trajectories


def log_density(x: torch.Tensor, mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    components = Normal(mu[:, None], sigma[:, None]).log_prob(x)  # [K, G]
    return torch.logsumexp(components, dim=0) - math.log(len(mu))


def fit_plain(direction: str, mu: list[float], sigma: float, steps: int) -> dict[str, list]:
    x = torch.linspace(-40, 40, 1601, dtype=torch.float64)
    dx = x[1] - x[0]
    log_p = log_density(x, torch.tensor([-3.0, 3.0]).double(), torch.tensor([0.5, 0.5]).double())
    mean = torch.tensor(mu, dtype=torch.float64, requires_grad=True)
    log_sigma = torch.full_like(mean, math.log(sigma)).requires_grad_()
    optimizer = torch.optim.Adam([mean, log_sigma], lr=0.1)
    trajectory: dict[str, list] = {"step": [], "mu": [], "sigma": [], "kl": []}
    for step in range(steps):
        log_q = log_density(x, mean, log_sigma.exp())
        if direction == "forward_kl":
            kl = (log_p.exp() * (log_p - log_q)).sum() * dx
        else:
            kl = (log_q.exp() * (log_q - log_p)).sum() * dx
        trajectory["step"].append(step)
        trajectory["sigma"].append(log_sigma.exp().tolist())
        trajectory["kl"].append(kl.item())
        optimizer.zero_grad()
        kl.backward()
        optimizer.step()
        trajectory["mu"].append(mean.tolist())
    return trajectory


def draw_frames(path: Path, direction: str, trajectory: dict[str, list], every: int) -> None:
    x = torch.linspace(-6, 6, 501, dtype=torch.float64)
    p = log_density(x, torch.tensor([-3.0, 3.0]).double(), torch.tensor([0.5, 0.5]).double()).exp()
    images = []
    for step in trajectory["step"][::every]:
        mu = torch.tensor(trajectory["mu"][step])
        sigma = torch.tensor(trajectory["sigma"][step])
        figure, axes = plt.subplots(figsize=(8, 4))
        axes.plot(x, p, color="#0072B2", label="Target Distribution P(x)")
        axes.plot(
            x,
            log_density(x, mu, sigma).exp(),
            color="#D55E00",
            linestyle="--",
            label="Approximate Distribution Q(x)",
        )
        axes.set_xlim(-6, 6)
        axes.set_ylim(0, 0.8)
        axes.set_xlabel("x")
        axes.set_ylabel("Probability Density")
        axes.set_title(f"{direction} minimization\nIteration {step}")
        axes.text(-5.8, 0.6, f"mu = {mu.tolist()}\nKL = {trajectory['kl'][step]:.4f}")
        axes.legend(loc="upper right")
        axes.grid(True)
        frame = path.with_name(f"{path.stem}_{step:04d}.png")
        figure.savefig(frame, dpi=100)
        plt.close(figure)
        images.append(imageio.imread(frame))
    imageio.imwrite(path, images, duration=100, loop=0)
