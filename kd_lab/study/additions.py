"""What later additions to the map change, each against the point next to it, over seeds.

- ABKD's alpha-beta divergence, against forward and against reverse KL.
- DistiLLM-2's pair of divergences, against skew reverse KL in all rows.
- DistiLLM's adaptive share, against its fixed share of one half.
- forward KL besides where the teacher is unsure, against on-policy reverse KL.
- hidden states beside forward KL, against forward KL.

One teacher and one start serve all students, as in the toy study. A pair's runs of one seed share
their conversations, so that a difference is taken within each seed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_lab.runs.run_files import read_metrics
from kd_lab.study.commands import evaluate, train
from kd_lab.study.schedule import Task
from kd_lab.study.sweep import over_seeds, paired, read_values, sweep_results, with_interval
from kd_lab.study.toy import scoring

# A run's kind: a recipe of tiny/, options after it, and seconds on one core of 2026.
KINDS: dict[str, tuple[str, tuple[str, ...], float]] = {
    "token_fkl": ("token_fkl", (), 9.0),
    "token_rkl": ("token_rkl", (), 9.0),
    "abkd": ("abkd", (), 9.0),
    "distillm2_one": ("distillm2", ("--divergence", "skew_reverse_kl"), 13.0),
    "distillm2": ("distillm2", (), 13.0),
    "distillm": ("distillm", (), 11.0),
    "distillm_adaptive": ("distillm_adaptive", (), 12.0),
    "seq_rkl": ("seq_rkl", (), 12.0),
    "eopd": ("eopd", (), 12.0),
    "hidden": ("hidden", (), 10.0),
}
# Each less the other, and the one thing in which they differ.
PAIRS = {
    ("abkd", "token_fkl"): "alpha-beta divergence (0.2, 0.7) for forward KL",
    ("abkd", "token_rkl"): "alpha-beta divergence (0.2, 0.7) for reverse KL",
    ("distillm2", "distillm2_one"): "skew forward for skew reverse KL on the teacher's answers",
    ("distillm_adaptive", "distillm"): "an adaptive share from 0 for a share of 0.5",
    ("eopd", "seq_rkl"): "forward KL besides, where the teacher is unsure",
    ("hidden", "token_fkl"): "the last hidden states aligned besides",
}
SHOWN = ("precision", "coverage", "forward_kl", "reverse_kl")


def additions_study(folder: Path, seeds: int, quick: bool = False) -> list[Task]:
    """All tasks, each after those it needs; the arguments are those of ``toy_study``."""
    short = ["--max_steps", "4", "--num_conversations", "300"] if quick else []
    teacher = ["--teacher_model_name_or_path", str(folder / "teacher")]
    start = ["--model_name_or_path", str(folder / "start")]
    tasks = [
        train(folder, "teacher", "--config", "tiny/teacher", *short, seconds=23),
        train(folder, "start", "--config", "tiny/start", *short, seconds=6),
        evaluate(folder, "teacher", *scoring(quick), after=["train teacher"], seconds=8),
    ]
    for seed in range(1, seeds + 1):
        for kind, (recipe, options, seconds) in KINDS.items():
            name = f"{kind}-{seed}"
            words = ["--config", f"tiny/{recipe}", *options, "--seed", str(seed)]
            tasks += [
                train(
                    folder, name, *words, *start, *teacher, *short,
                    kind=kind, after=["train teacher", "train start"], seconds=seconds,
                ),
                evaluate(
                    folder, name, *scoring(quick), *teacher,
                    after=[f"train {name}", "evaluate teacher"], seconds=8,
                ),
            ]  # fmt: skip
    return tasks


def additions_results(folder: Path, seeds: int) -> dict[str, Any]:
    """All figures of the study, each with its values by seed and a 95% t-interval over seeds.

    Returns:
        those of ``sweep_results``, and
        - ``students``: kind -> metric -> figure.
        - ``pairs``: "A less B" -> ``changes``, what differs, and metric -> difference by seed.
        - ``last_share``: of the student's answers where it adapts, by seed.
    """
    values = {kind: read_values(folder, kind, seeds) for kind in KINDS}
    return {
        **sweep_results(folder, seeds),
        "students": {
            kind: {metric: over_seeds(x) for metric, x in of_kind.items()}
            for kind, of_kind in values.items()
        },
        "pairs": {
            f"{a} less {b}": {"changes": words, "differences": paired(values[a], values[b])}
            for (a, b), words in PAIRS.items()
        },
        "last_share": [
            _last_share(folder / f"distillm_adaptive-{seed}") for seed in range(1, seeds + 1)
        ],
    }


def additions_findings(results: Mapping[str, Any]) -> list[str]:
    """One sentence a pair: what it changes, with 95% t-intervals over seeds."""
    sentences = []
    for pair in results["pairs"].values():
        changed = ", ".join(
            f"{metric.replace('_', ' ')} {with_interval(pair['differences'][metric])}"
            for metric in SHOWN
        )
        sentences.append(f"{pair['changes'][0].upper()}{pair['changes'][1:]} changes {changed}.")
    return sentences


def _last_share(run: Path) -> float:
    shares: Sequence[float] = [
        line["student_share"] for line in read_metrics(run) if "student_share" in line
    ]
    return shares[-1]
