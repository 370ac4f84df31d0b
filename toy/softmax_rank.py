"""The post's Figure 4: a softmax student learns a 64x64 teacher of rank 2, 4, ... 64.

It draws one picture for each rank, with a curve for every divergence. The left axis is the distance
between the two weight matrices, the right axis that between the two probability tables of a batch.
All ranks and divergences are trained at once (toy/rank_race.py). toy/audit_ranks.py tests what the
pictures suggest.

    python toy/softmax_rank.py                         # assets/kl_cmp_rank{2,4,8,16,32,64}.jpg
    python toy/softmax_rank.py --post-numerics         # with the 1e-10 inside the logarithm
    python toy/softmax_rank.py --divergence adaptive_kl jensen_shannon --ranks 8 --out build
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from kd_lab.divergences import DIVERGENCES, get_divergence
from kd_lab.files import whole_file, write_text
from toy.rank_figures import draw_race
from toy.rank_race import METRICS, RaceLog, race, teacher_weights
from toy.script import json_file, run_script, script_parser, whole, writable_folder


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    divergences = _divergences(arguments.divergence, arguments.post_numerics)
    teachers = teacher_weights(arguments.ranks, seed=arguments.seed, sharpness=arguments.sharpness)
    out = writable_folder(arguments.out)
    pictures = [out / f"kl_cmp_rank{rank}.jpg" for rank in arguments.ranks]
    json_path = json_file(arguments.json, pictures)

    # The tensors are too small to share between cores: the hand-over costs more than it saves.
    torch.set_num_threads(1)
    log = race(
        teachers,
        divergences,
        [arguments.lr],
        arguments.steps,
        seed=arguments.seed,
        progress=partial(
            track,
            description=f"train {len(teachers) * len(divergences)} students",
            console=Console(stderr=True),
            transient=True,
        ),
    )
    written = [*pictures]
    for index, (rank, picture) in enumerate(zip(arguments.ranks, pictures, strict=True)):
        with whole_file(picture) as path:
            draw_race(log, index, rank, path)
    if json_path:
        written.append(json_path)
        write_text(json_path, json.dumps(_to_json(log, arguments), indent=1))
    print(f"wrote {', '.join(str(path) for path in written)}")


def _divergences(names: Sequence[str], post_numerics: bool) -> list[str]:
    for name in names:
        get_divergence(name)  # an unknown name lists the known ones
    if not post_numerics:
        return list(names)
    for name in names:
        if name not in ("forward_kl", "reverse_kl"):
            raise ValueError(
                "the post's numerics are those of forward_kl and reverse_kl; "
                f"leave --post-numerics off for {name}"
            )
    return [f"{name}_epsilon" for name in names]


def _to_json(log: RaceLog, arguments: argparse.Namespace) -> dict:
    """``{"settings": ..., "step": [...], "ranks": {rank: {divergence: {metric: [...]}}}}``."""
    return {
        "settings": {
            "steps": arguments.steps,
            "lr": arguments.lr,
            "sharpness": arguments.sharpness,
            "post_numerics": arguments.post_numerics,
            "seed": arguments.seed,
        },
        "step": log.step,
        "ranks": {
            rank: {
                name: {metric: log.curve(metric, divergence, index) for metric in METRICS}
                for name, divergence in zip(arguments.divergence, log.divergences, strict=True)
            }
            for index, rank in enumerate(arguments.ranks)
        },
    }


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--divergence",
        nargs="+",
        default=["forward_kl", "reverse_kl"],
        metavar="NAME",
        help=f"the divergences (default: forward_kl reverse_kl; known: {', '.join(DIVERGENCES)})",
    )
    parser.add_argument(
        "--ranks",
        nargs="+",
        type=int,
        default=[2, 4, 8, 16, 32, 64],
        metavar="N",
        help="the teachers' ranks, one picture each (default: 2 4 8 16 32 64)",
    )
    parser.add_argument(
        "--steps",
        type=whole(1, 10_000_000),
        default=10_000,
        help="number of updates (default: 10000)",
    )
    parser.add_argument("--lr", type=float, default=0.1, help="Adam's learning rate (default: 0.1)")
    parser.add_argument(
        "--sharpness",
        choices=("post", "unit"),
        default="post",
        help="post: logits of variance 64 x rank; unit: of variance 1 (default: post)",
    )
    parser.add_argument(
        "--post-numerics",
        action="store_true",
        help="add 1e-10 inside the logarithm, as the post does (default: exact)",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write every logged value")
    return parser


if __name__ == "__main__":
    run_script(main)
