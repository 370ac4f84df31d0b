"""The options, the fit and the drawing that the scripts of the post's Figures 1 and 2 share."""

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kd_lab.divergences import DIVERGENCES
from kd_lab.files import write_text
from toy.animation import draw_gif
from toy.mixture_fit import POST_TARGET, Grid, Mixture, Trajectory, fit
from toy.script import json_file, number, script_parser, whole, writable_folder

MOST_STEPS = 100_000  # a frame of the animation each
POST_NAMES = {"forward_kl": "fwd_kl", "reverse_kl": "rev_kl"}


def gaussian_parser(
    description: str | None, mu: Sequence[float], sigma: str, steps: int
) -> argparse.ArgumentParser:
    """The options of both scripts; ``mu``, ``sigma`` and ``steps`` are the post's values."""
    parser = script_parser(description)
    student = parser.add_argument_group("the student q")
    student.add_argument(
        "--mu",
        nargs="+",
        default=[str(value) for value in mu],
        metavar="MU",
        help="the means at the start, one for each Gaussian: a number, or 'random' for one "
        f"drawn with --seed from [-6, 6] (default: {' '.join(f'{value:g}' for value in mu)})",
    )
    student.add_argument(
        "--sigma",
        nargs="+",
        type=number,
        metavar="SIGMA",
        help=f"standard deviations at the start, one for all or one for each (default: {sigma})",
    )
    teacher = parser.add_argument_group("the target p")
    for name, help_text in (
        ("mu", "means"),
        ("sigma", "standard deviations"),
        ("weight", "weights"),
    ):
        values = getattr(POST_TARGET, name)
        teacher.add_argument(
            f"--target-{name}",
            nargs="+",
            type=number,
            default=values,
            metavar=name.upper(),
            help=f"{help_text} (default: {' '.join(f'{value:g}' for value in values)})",
        )
    descent = parser.add_argument_group("the descent")
    descent.add_argument(
        "--divergence",
        nargs="+",
        default=list(POST_NAMES),
        metavar="NAME",
        help=f"any of {', '.join(DIVERGENCES)} (default: {' '.join(POST_NAMES)})",
    )
    descent.add_argument(
        "--steps", type=whole(1, MOST_STEPS), default=steps, help=f"(default: {steps})"
    )
    descent.add_argument(
        "--optimizer", default="Adam", metavar="NAME", help="of torch.optim (default: Adam)"
    )
    descent.add_argument("--lr", type=number, default=0.1, help="learning rate (default: 0.1)")
    numerics = descent.add_mutually_exclusive_group()
    numerics.add_argument(
        "--grid",
        nargs=3,
        type=number,
        metavar=("LOW", "HIGH", "POINTS"),
        help="where the densities are summed (default: -40 40 1601)",
    )
    numerics.add_argument(
        "--post-numerics",
        action="store_true",
        help="the post's arithmetic: float32 with 1e-10 inside the logarithm. It reproduces the "
        "post's numbers (default: exact sums in log space)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="also write every step of every fit to PATH"
    )
    return parser


def fit_and_draw(
    options: argparse.Namespace, default_sigma: Mapping[str, float], suffix: str
) -> None:
    """Fit under each chosen divergence, then write one GIF each and the JSON.

    Files are written only after every fit has succeeded.

    Args:
        default_sigma: the post's sigma at the start for some divergences; 5 for the others.
        suffix: follows the divergence's name in the file's name.
    """
    folder = writable_folder(options.out)
    paths = {
        name: folder / f"{POST_NAMES.get(name, name)}{suffix}.gif" for name in options.divergence
    }
    json_path = json_file(options.json, list(paths.values()))
    target = Mixture(options.target_mu, options.target_sigma, options.target_weight)
    mu = _start_means(options.mu, options.seed)
    grid = _grid(options.grid) if options.grid else None

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        fits: dict[str, Trajectory] = {}
        for name in options.divergence:
            sigma = options.sigma or [default_sigma.get(name, 5.0)]
            fits[name] = fit(
                target,
                mu,
                sigma if len(sigma) > 1 else sigma[0],
                divergence=name,
                optimizer=options.optimizer,
                lr=options.lr,
                steps=options.steps,
                grid=grid,
                post_numerics=options.post_numerics,
                progress=partial(progress.track, description=f"fit {name}"),
            )
        written = []
        for name, trajectory in fits.items():
            path = paths[name]
            draw_gif(
                trajectory, path, progress=partial(progress.track, description=f"draw {path.name}")
            )
            written.append(path)
    if json_path:
        text = json.dumps({name: t.to_json() for name, t in fits.items()})
        write_text(json_path, text)
        written.append(json_path)
    for name, trajectory in fits.items():
        last = trajectory.mu[-1, 0], trajectory.sigma[-1, 0]
        means, widths = (" ".join(f"{value:.4f}" for value in values) for values in last)
        print(
            f"{name}: mu {means}, sigma {widths}, divergence {trajectory.kl[-1, 0]:.4g} "
            f"at step {options.steps - 1}"
        )
    print("wrote", ", ".join(map(str, written)))


def _start_means(words: Sequence[str], seed: int) -> list[float]:
    draw = torch.Generator().manual_seed(seed)
    means = []
    for word in words:
        if word == "random":
            means.append(float(torch.rand(1, generator=draw, dtype=torch.float64) * 12 - 6))
        else:
            try:
                means.append(number(word))
            except argparse.ArgumentTypeError:
                raise ValueError(
                    f"--mu takes numbers or the word 'random', not {word!r} (from -1e6 to 1e6)"
                ) from None
    return means


def _grid(ends_and_points: Sequence[float]) -> Grid:
    low, high, points = ends_and_points
    if not (points.is_integer() and 2 <= points <= 1e6):
        raise ValueError(f"--grid takes from 2 to 1,000,000 points, not {points:g}")
    return Grid(low, high, int(points))
