"""All eleven figures of the post at once, and the numbers to expect in them.

Each figure has its own script in this folder. This one runs them, two at a time. Then it compares
their numbers with closed forms, or with values read off the post's own images.

  python -m toy.figures                 into assets/
  python -m toy.figures --out /tmp/fig
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from toy.script import run_script, script_parser, writable_folder

# Script: the figures that it writes. The longest first.
SCRIPTS = {
    "softmax_rank": [f"kl_cmp_rank{rank}.jpg" for rank in (2, 4, 8, 16, 32, 64)],
    "toy_example_fkl_rkl_v2": ["fwd_kl_dual.gif", "rev_kl_dual.gif"],
    "toy_example_fkl_rkl": ["fwd_kl.gif", "rev_kl.gif"],
    "token_sequence_diagram": ["token-sequence-level.png"],
}


def main(argv: Sequence[str] | None = None) -> None:
    arguments = script_parser(__doc__).parse_args(argv)
    out = writable_folder(arguments.out)
    with tempfile.TemporaryDirectory() as scratch:
        draw_all(out, Path(scratch), arguments.seed)
        show_numbers(Path(scratch))
    for script, figures in SCRIPTS.items():
        print(f"toy/{script}.py -> {', '.join(str(out / name) for name in figures)}")


def draw_all(out: Path, scratch: Path, seed: int) -> None:
    """Run every script; their numbers go as JSON into ``scratch``.

    Raises:
        ValueError: a script failed; the message is the script's own.
    """
    console = Console(stderr=True)
    progress = Progress(console=console, transient=True, disable=not console.is_terminal)
    with progress, ThreadPoolExecutor(max_workers=2) as pool:
        task = progress.add_task("figures", total=sum(map(len, SCRIPTS.values())))
        running = {pool.submit(run, script, out, scratch, seed): script for script in SCRIPTS}
        for done in as_completed(running):
            done.result()
            progress.advance(task, len(SCRIPTS[running[done]]))


def run(script: str, out: Path, scratch: Path, seed: int) -> None:
    command = [sys.executable, "-m", f"toy.{script}", "--out", str(out), "--seed", str(seed)]
    if script != "token_sequence_diagram":
        command += ["--json", str(scratch / f"{script}.json")]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise ValueError(ended.stderr.strip() or f"{script} ended with {ended.returncode}")


def show_numbers(scratch: Path) -> None:
    """Print the figures' numbers beside the expected ones."""
    one, two, ranks = (
        json.loads((scratch / f"{script}.json").read_text(encoding="utf-8"))
        for script in ("toy_example_fkl_rkl", "toy_example_fkl_rkl_v2", "softmax_rank")
    )
    table = Table(title="The numbers to expect")
    table.add_column("figure")
    table.add_column("what", min_width=34)
    table.add_column("here")
    table.add_column("expected")
    forward, reverse = one["forward_kl"], one["reverse_kl"]
    # The best Gaussian has the target's mean and variance, 3² + 0.5²; the entropies are in closed
    # form because the modes, 12 standard deviations apart, do not overlap.
    best = 0.5 * math.log(9.25 / 0.25) - math.log(2)
    rows = [
        ("1", "forward KL: mean", f"{forward['mu'][-1][0]:.2f}", "0"),
        ("1", "forward KL: sigma", f"{forward['sigma'][-1][0]:.2f}", f"√9.25 = {9.25**0.5:.2f}"),
        ("1", "forward KL: nats", f"{forward['kl'][-1]:.4f}", f"{best:.4f}"),
        ("1", "reverse KL: mean", f"{reverse['mu'][-1][0]:.2f}", "3, a mode"),
        ("1", "reverse KL: sigma", f"{reverse['sigma'][-1][0]:.2f}", "0.50, the mode's"),
        ("1", "reverse KL: nats", f"{reverse['kl'][-1]:.4f}", f"ln 2 = {math.log(2):.4f}"),
        ("2", "forward KL: steps to 0.01 nats", arrival(two["forward_kl"]), "post: near 100"),
        ("2", "reverse KL: steps to 0.01 nats", arrival(two["reverse_kl"]), "post: near 350 *"),
    ]
    for rank, expected in ("2", "post: 40 / 250"), ("64", "post: rev behind *"):
        ends = [
            ranks["ranks"][rank][name]["weight_distance"][-1]
            for name in ("forward_kl", "reverse_kl")
        ]
        here = " / ".join(f"{distance:.0f}" for distance in ends)
        rows.append(("4", f"rank {rank}: final ‖ΔW‖, fwd / rev", here, expected))
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(
        "* by the post's 1e-10 inside the logarithm: add --post-numerics to the scripts",
        highlight=False,
    )


def arrival(trajectory: dict) -> str:
    """The first step at which the divergence is below 0.01 nats."""
    for step, value in zip(trajectory["step"], trajectory["kl"], strict=True):
        if value < 0.01:
            return str(step)
    return "never"


if __name__ == "__main__":
    run_script(main)
