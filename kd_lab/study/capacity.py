"""When do forward and reverse KL end alike? The gap between them against the student's capacity.

Students of four sizes, the largest as large as its teacher. For each size and seed there is one
start, trained by SFT, and from it go on SFT, token-level forward KL and token-level reverse KL. Of
one seed all see the same conversations in the same order: only the objective differs, and the gaps
of several seeds are over several starts too. For the record, the student of the demo is also
trained by both divergences from random weights, for as many steps as a start and what follows it.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from kd_lab.run_folder import run_versions
from kd_lab.study.commands import evaluate, train
from kd_lab.study.schedule import Task
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
        """What ``model_shape`` takes."""
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
    Size(1, 32, "1e-2", 3),
    Size(2, 32, "5e-3", 4),
    Size(2, 64, "5e-3", 5),
)
FROM_RANDOM = SIZES[1]
START_STEPS, STEPS = 1000, 400
METHODS = {"sft": "SFT", "token_fkl": "forward KL", "token_rkl": "reverse KL"}
DIVERGENCES = {"token_fkl": "forward_kl", "token_rkl": "reverse_kl"}
METRICS = (
    "coverage", "precision", "hallucination", "grammar_forward_kl", "grammar_reverse_kl_inside",
    "forward_kl", "reverse_kl", "top1_agreement", "sequence_forward_kl_rao_blackwell",
    "sequence_reverse_kl_rao_blackwell",
)  # fmt: skip
RESULTS, PICTURE = "study_capacity.json", "study_capacity.png"


def capacity_study(folder: Path, seeds: int, quick: bool = False) -> list[Task]:
    """All tasks, each after those it needs; the arguments are those of ``toy_study``."""
    start_steps, steps = (4, 4) if quick else (START_STEPS, STEPS)
    few = ["--num_conversations", "300"] if quick else []
    teacher = ["--teacher_model_name_or_path", str(folder / "teacher")]
    tasks = [
        train(
            folder, "teacher", "--config", "tiny/teacher", *few,
            *(["--max_steps", "4"] if quick else []), seconds=35,
        ),
        evaluate(folder, "teacher", *scoring(quick), after=["train teacher"], seconds=8),
    ]  # fmt: skip

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
            for method in METHODS:
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

    Returns:
        ``sizes`` (each with ``name``, ``parameters``, ``methods``: method -> metric -> figure, and
        ``gaps``: metric -> reverse KL less forward KL, paired by seed), ``random`` (likewise) and
        ``teacher``; a figure has ``values``, ``mean``, ``low`` and ``high``.
    """

    def evaluation(name: str) -> dict[str, Any]:
        return json.loads((folder / name / "evaluation.json").read_text(encoding="utf-8"))

    def group(prefix: str, methods: Sequence[str]) -> dict[str, Any]:
        runs = {
            method: [evaluation(f"{prefix}-{method}-{seed}") for seed in range(1, seeds + 1)]
            for method in methods
        }
        values = {
            method: {m: [run["metrics"][m]["mean"] for run in of_seeds] for m in METRICS}
            for method, of_seeds in runs.items()
        }
        return {
            "name": prefix,
            "parameters": runs["token_fkl"][0]["speed"]["student"]["parameters"],
            "methods": {
                method: {metric: _over_seeds(v) for metric, v in of_method.items()}
                for method, of_method in values.items()
            },
            "gaps": {
                metric: _over_seeds(
                    np.subtract(values["token_rkl"][metric], values["token_fkl"][metric])
                )
                for metric in METRICS
            },
        }

    teacher = evaluation("teacher")
    return {
        "seeds": seeds,
        "steps": {"start": START_STEPS, "after": STEPS},
        "teacher": {
            "parameters": teacher["speed"]["student"]["parameters"],
            **{m: teacher["metrics"][m]["mean"] for m in METRICS if m in teacher["metrics"]},
        },
        "sizes": [group(size.name, ["start", *METHODS]) for size in SIZES],
        "random": group("random", list(DIVERGENCES)),
        "test_set": teacher["test_set"],
        "versions": run_versions({}),
    }


def capacity_findings(results: Mapping[str, Any]) -> list[str]:
    """Where forward and reverse KL end alike, and where not."""
    sizes = results["sizes"]
    random = results["random"]["methods"]

    def gaps(metric: str) -> str:
        return ", ".join(f"{_told(size['gaps'][metric])} at {size['name']}" for size in sizes)

    return [
        f"Coverage of reverse KL less that of forward KL: {gaps('coverage')}.",
        f"Precision of reverse KL less that of forward KL: {gaps('precision')}.",
        "From random weights coverage is "
        + " and ".join(
            f"{random[method]['coverage']['mean']:.3f} by {METHODS[method]}"
            for method in DIVERGENCES
        )
        + f". (95% intervals over {results['seeds']} seeds, paired by start.)",
    ]


def draw_capacity(results: Mapping[str, Any]) -> bytes:
    """The picture, as PNG: what each method reaches, by the size of the student."""
    import matplotlib.pyplot as plt

    panels = {
        "coverage": "coverage",
        "precision": "precision",
        "forward_kl": "forward KL to teacher",
        "reverse_kl": "reverse KL to teacher",
    }
    lines = {
        "sft": ("SFT", "#009E73", "-.", "^"),
        "token_fkl": ("forward KL", "#0072B2", "-", "o"),
        "token_rkl": ("reverse KL", "#D55E00", "--", "s"),
    }
    sizes = results["sizes"]
    with plt.style.context("kd_lab.figures"):
        figure, axes = plt.subplots(2, 2, figsize=(6, 5), sharex=True, layout="constrained")
        for axis, (metric, title) in zip(axes.flat, panels.items(), strict=True):
            for offset, (method, (label, colour, style, marker)) in enumerate(lines.items()):
                of_sizes = [size["methods"][method][metric] for size in sizes]
                mean, low, high = (
                    np.array([each[key] for each in of_sizes], float)  # null, of one seed, is NaN
                    for key in ("mean", "low", "high")
                )
                axis.errorbar(
                    np.arange(len(sizes)) + (offset - 1) * 0.06, mean, [mean - low, high - mean],
                    label=label, color=colour, linestyle=style, marker=marker, capsize=3,
                )  # fmt: skip
            if metric in results["teacher"]:
                axis.axhline(
                    results["teacher"][metric], color="#7F7F7F", linewidth=1, label="teacher"
                )
            else:
                axis.set_yscale("log")
            axis.set_title(title)
            axis.set_xticks(range(len(sizes)), [size["name"].replace("x", "×") for size in sizes])
        for axis in axes[1]:
            axis.set_xlabel("layers × width")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=150)
        plt.close(figure)
    return picture.getvalue()


def _told(gap: Mapping[str, Any]) -> str:
    if gap["low"] is None:
        return f"{gap['mean']:+.3f} (one seed)"
    return f"{gap['mean']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"


def _over_seeds(values: ArrayLike) -> dict[str, Any]:
    """Mean and 95% t-interval over seeds; with one seed there is no interval, and it is null."""
    x = np.asarray(values, float)
    low = high = None
    if len(x) > 1:
        half = stats.t.ppf(0.975, len(x) - 1) * stats.sem(x)
        low, high = x.mean() - half, x.mean() + half
    return {"values": x.tolist(), "mean": x.mean(), "low": low, "high": high}
