"""When do forward and reverse KL end alike? The gap between them against the student's capacity.

Students have five sizes; the largest is as large as its teacher. Each size and seed has one start,
trained by SFT. From it SFT, token-level forward KL and token-level reverse KL go on. All runs of
one seed see the same conversations in the same order; only the objective differs. So gaps over
several seeds are over several starts too. For the record, both divergences also train the demo's
student from random weights, for as many steps as a start and its continuation together.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kd_lab.study.commands import evaluate, train
from kd_lab.study.schedule import Task
from kd_lab.study.sweep import (
    COMPARED,
    DIVERGENCES,
    Sweep,
    draw_sweep,
    parameters_of,
    read_values,
    sweep_results,
    teacher_tasks,
    with_gaps,
    with_interval,
)
from kd_lab.study.toy import scoring


class Size(NamedTuple):
    """A student's layers and width, and the learning rate of its start."""

    layers: int
    width: int
    learning_rate: str
    seconds: float  # of 100 steps on one core of 2026

    @property
    def name(self) -> str:
        return f"{self.layers}x{self.width}"

    @property
    def shape(self) -> str:
        """The argument of ``model_shape``."""
        return json.dumps(
            {
                "hidden_size": self.width,
                "intermediate_size": 4 * self.width,
                "num_hidden_layers": self.layers,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "tie_word_embeddings": False,
            }
        )


SIZES = (
    Size(1, 16, "1e-2", 2.5),
    Size(1, 24, "1e-2", 2.7),
    Size(1, 32, "1e-2", 3),
    Size(2, 32, "5e-3", 4),
    Size(2, 64, "5e-3", 5),
)
FROM_RANDOM = SIZES[2]
START_STEPS, STEPS = 1000, 400


def capacity_study(folder: Path, seeds: int, quick: bool = False) -> list[Task]:
    """All tasks, each after those it needs; the arguments are those of ``toy_study``."""
    start_steps, steps = (4, 4) if quick else (START_STEPS, STEPS)
    few = ["--num_conversations", "300"] if quick else []
    teacher = ["--teacher_model_name_or_path", str(folder / "teacher")]
    tasks = teacher_tasks(folder, quick)

    def add(name: str, size: Size, steps: int, *words: str, after: Sequence[str] = ()) -> None:
        kind, seed = name.rsplit("-", 1)
        tasks.append(
            train(
                folder, name, *words, "--max_steps", str(steps), "--seed", seed, *few,
                kind=kind, after=after, seconds=size.seconds * steps / 100,
            )
        )  # fmt: skip
        scored = [f"train {name}", "evaluate teacher"]
        tasks.append(evaluate(folder, name, *scoring(quick), *teacher, after=scored, seconds=8))

    for seed in range(1, seeds + 1):
        for size in SIZES:
            start = f"{size.name}-start-{seed}"
            untrained = ["--model_shape", size.shape, "--learning_rate", size.learning_rate]
            add(start, size, start_steps, "--config", "tiny/start", *untrained)
            for method in COMPARED:
                add(
                    f"{size.name}-{method}-{seed}", size, steps, "--config", f"tiny/{method}",
                    "--model_name_or_path", str(folder / start), *teacher,
                    after=[f"train {start}", "train teacher"],
                )  # fmt: skip
        for method, divergence in DIVERGENCES.items():
            add(
                f"random-{method}-{seed}", FROM_RANDOM, start_steps + steps,
                "--config", "tiny/start", "--model_shape", FROM_RANDOM.shape, *teacher,
                "--alpha", "1", "--divergence", divergence, "--learning_rate", "3e-3",
                after=["train teacher"],
            )  # fmt: skip
    return tasks


def capacity_results(folder: Path, seeds: int) -> dict[str, Any]:
    """All figures of the sweep, each with its values by seed and a 95% interval over seeds.

    A figure has ``values``, ``mean``, ``low`` and ``high``.

    Returns:
        - ``sizes``: ``name``, ``parameters``, ``methods`` (method -> metric -> figure) and ``gaps``
          and ``gains`` (see ``with_gaps``) of each.
        - ``random``: the same from random weights.
        - ``teacher``: the teacher's figures.
    """

    def group(name: str, methods: Sequence[str]) -> dict[str, Any]:
        values = {method: read_values(folder, f"{name}-{method}", seeds) for method in methods}
        parameters = parameters_of(folder, f"{name}-token_fkl-1")
        return {"name": name, "parameters": parameters, **with_gaps(values)}

    return {
        **sweep_results(folder, seeds),
        "steps": {"start": START_STEPS, "after": STEPS},
        "sizes": [group(size.name, ["start", *COMPARED]) for size in SIZES],
        "random": group("random", list(DIVERGENCES)),
    }


def capacity_findings(results: Mapping[str, Any]) -> list[str]:
    """Where forward and reverse KL end alike, and where not."""
    sizes = results["sizes"]
    random = results["random"]["methods"]

    def gaps(metric: str) -> str:
        return ", ".join(
            f"{with_interval(size['gaps'][metric])} at {size['name']}" for size in sizes
        )

    return [
        f"Coverage of reverse KL less that of forward KL: {gaps('coverage')}.",
        f"Precision of reverse KL less that of forward KL: {gaps('precision')}.",
        "From random weights coverage is "
        + " and ".join(
            f"{random[method]['coverage']['mean']:.3f} by {COMPARED[method]}"
            for method in DIVERGENCES
        )
        + f". (95% intervals over {results['seeds']} seeds, paired by start.)",
    ]


def draw_capacity(results: Mapping[str, Any]) -> bytes:
    """The picture, as PNG: each method's figures by the size of the student."""
    return draw_sweep(
        [size["methods"] for size in results["sizes"]],
        [size["name"].replace("x", "×") for size in results["sizes"]],
        "layers × width",
        results["teacher"],
    )


CAPACITY = Sweep("capacity", capacity_study, capacity_results, draw_capacity, capacity_findings)
