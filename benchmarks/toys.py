"""The toys against the plain way to write them: same fits, same frames, same steps, in one run.

    python benchmarks/toys.py
    python benchmarks/toys.py --repeats 1 --json toys.json

gifs     four GIFs of 100 frames; plain: a figure saved for each frame, then imageio (plain_gifs.py)
ranks    twelve students (six ranks, two divergences); plain: one after the other (plain_rank.py)
figures  seconds of ``python -m toy.figures``, which is ``make figures`` in a ready environment

The two programs of a pair run in turn, both on one thread; the result is the median of their
ratios. First their numbers are compared: the GIFs' whole trajectories, and the rank study's first
steps. In float32 these are 200 steps, in float64 400. Beyond them a descent at learning rate 0.1
cannot be followed: rounding errors grow tenfold every 20 to 30 steps at the low ranks.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from plain_gifs import FITS, draw_plain
from plain_rank import run_plain
from rich.console import Console
from rich.progress import Progress

from kd_lab.files import write_text
from toy.animation import draw_gif
from toy.mixture_fit import POST_TARGET, fit
from toy.rank_race import race, teacher_weights
from toy.script import run_script

RANKS = (2, 4, 8, 16, 32, 64)
RANK_STEPS = 2_000  # of the study's 10,000; the cost of a step is the same throughout
TOLERANCE = 1e-4


def draw_ours(folder: Path) -> dict[str, dict[str, list]]:
    trajectories = {}
    for name, (divergence, mu, sigma, steps) in FITS.items():
        trajectory = fit(POST_TARGET, mu, sigma, divergence=divergence, steps=steps)
        draw_gif(trajectory, folder / f"{name}.gif")
        trajectories[name] = trajectory.to_json()
    return trajectories


def run_ours(steps: int, dtype: torch.dtype = torch.float32) -> dict:
    teachers = teacher_weights(RANKS, seed=0).to(dtype)
    log = race(teachers, ["forward_kl", "reverse_kl"], steps=steps)
    return {
        rank: {
            name: {
                metric: log.curve(metric, name, index)
                for metric in ("weight_distance", "probability_distance")
            }
            for name in log.divergences
        }
        for index, rank in enumerate(RANKS)
    }


def check_same_trajectories(plain: dict, ours: dict) -> float:
    """The largest difference in any mu, sigma or divergence; refuses more than 1e-4."""
    worst = max(
        _difference(plain[name][key], ours[name][key]).abs().max().item()
        for name in plain
        for key in ("mu", "sigma", "kl")
    )
    return _within_tolerance("the GIFs' trajectories", worst)


def check_same_race(steps: int, dtype: torch.dtype) -> float:
    """The largest relative difference in any logged value; refuses more than 1e-4."""
    plain, ours = run_plain(RANKS, steps, dtype=dtype), run_ours(steps, dtype)
    worst = max(
        (_difference(plain[rank][name][metric], curve) / torch.tensor(curve)).abs().max().item()
        for rank, divergences in ours.items()
        for name, curves in divergences.items()
        for metric, curve in curves.items()
    )
    return _within_tolerance(f"the rank study over {steps} steps in {dtype}", worst)


def _difference(plain: list, ours: list) -> torch.Tensor:
    return torch.tensor(plain, dtype=torch.float64) - torch.tensor(ours, dtype=torch.float64)


def _within_tolerance(what: str, difference: float) -> float:
    if not difference <= TOLERANCE:
        raise ValueError(f"{what}: plain and ours differ by {difference:.1e}")
    return difference


def ratio(
    plain: Callable[[], object], ours: Callable[[], object], repeats: int, done: Callable[[], None]
) -> float:
    """Median over pairs of (seconds of plain) / (seconds of ours)."""
    ratios = []
    for _ in range(repeats):
        start = time.perf_counter()
        plain()
        between = time.perf_counter()
        ours()
        ratios.append((between - start) / (time.perf_counter() - between))
        done()
    return statistics.median(ratios)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="PATH")
    arguments = parser.parse_args(argv)
    if arguments.repeats < 1:
        raise ValueError(f"--repeats must be at least 1, not {arguments.repeats}")
    mpl.use("Agg")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    progress = Progress(console=Console(stderr=True), transient=True)
    with progress, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        task = progress.add_task("toys", total=3 + 2 * arguments.repeats)
        step = lambda: progress.advance(task)  # noqa: E731
        gif_gap = check_same_trajectories(draw_plain(folder), draw_ours(folder))
        step()
        rank_gaps = {
            "float32": check_same_race(200, torch.float32),
            "float64": check_same_race(400, torch.float64),
        }
        step()
        gifs = ratio(lambda: draw_plain(folder), lambda: draw_ours(folder), arguments.repeats, step)
        ranks = ratio(
            lambda: run_plain(RANKS, RANK_STEPS),
            lambda: run_ours(RANK_STEPS),
            arguments.repeats,
            step,
        )
        torch.set_num_threads(threads)
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "toy.figures", "--out", scratch], check=True, capture_output=True
        )
        seconds = time.perf_counter() - start
        step()
    result = {
        "gifs_vs_plain": gifs,
        "rank_vs_plain": ranks,
        "figures_seconds": seconds,
        "largest_difference": {"gifs": gif_gap, "rank": rank_gaps},
    }
    print(f"four GIFs: {gifs:.1f}x the plain way (numbers agree to {gif_gap:.0e})")
    print(
        f"rank study: {ranks:.1f}x the plain way (agree to {rank_gaps['float32']:.0e} over 200 "
        f"steps in float32, {rank_gaps['float64']:.0e} over 400 in float64)"
    )
    print(f"all figures: {seconds:.0f} s")
    if arguments.json:
        write_text(arguments.json, json.dumps(result, indent=1) + "\n")
        print(f"wrote {arguments.json}")


if __name__ == "__main__":
    run_script(main)
