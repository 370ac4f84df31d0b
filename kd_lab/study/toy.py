"""The study on the toy language: one teacher, one student to start from, every method, three seeds.

All students begin with the same checkpoint, as the post's do, and see as many conversations. Seeds
of one method share teacher and start. They differ only in data order and sampling, so their spread
measures the method alone.
"""

from pathlib import Path

from kd_lab.study.commands import evaluate, generate, train
from kd_lab.study.schedule import Task

# Each a recipe of tiny/, with the seconds that it takes on one core of 2026.
SECONDS = {
    "sft": 6.0,
    "token_fkl": 9.0,
    "token_rkl": 9.0,
    "token_akl": 10.0,
    "token_jsd": 9.0,
    "seq_fkl": 8.0,  # on answers that the teacher wrote beforehand
    "seq_rkl": 12.0,
    "minillm": 20.0,
}


def scoring(quick: bool) -> list[str]:
    """The settings of ``kd-lab evaluate`` on the toy language."""
    examples, answers = ("20", "2") if quick else ("300", "8")
    return [
        *("--num_test_conversations", examples),
        *("--answers_per_prompt", answers),
        *("--max_new_tokens", "16"),  # the longest answer has 14
        *("--rollout_batch_size", "256"),
    ]


def shared_tasks(folder: Path, quick: bool) -> list[Task]:
    """What all students of a study share: the teacher with its answers, and the start."""
    short = ["--max_steps", "4", "--num_conversations", "300"] if quick else []
    teacher = ["--teacher_model_name_or_path", str(folder / "teacher")]
    return [
        train(folder, "teacher", "--config", "tiny/teacher", *short, seconds=23),
        train(folder, "start", "--config", "tiny/start", *short, seconds=6),
        generate(
            folder, "teacher_answers", "--config", "tiny/generate", *teacher, *short[2:],
            after=["train teacher"], seconds=4,
        ),
        # First the teacher alone: its answers serve all students.
        evaluate(folder, "teacher", *scoring(quick), after=["train teacher"], seconds=8),
    ]  # fmt: skip


def toy_study(folder: Path, seeds: int, quick: bool = False) -> list[Task]:
    """All tasks, each after those it needs.

    Args:
        folder: of the study.
        seeds: how many of each method: 1, 2, ...
        quick: very few steps and examples, to see that everything works.
    """
    short = ["--max_steps", "4", "--num_conversations", "300"] if quick else []
    scores = scoring(quick)
    teacher = ["--teacher_model_name_or_path", str(folder / "teacher")]
    tasks = [
        *shared_tasks(folder, quick),
        evaluate(
            folder, "start", *scores, *teacher, seconds=8,
            after=["train start", "evaluate teacher"],
        ),
    ]  # fmt: skip
    curves = ["--eval_strategy", "steps", "--eval_steps", "25", "--eval_on_start", "true"]
    curves += ["--per_device_eval_batch_size", "100", "--num_test_conversations", "100"]
    for method, seconds in SECONDS.items():
        own = ["--answers", str(folder / "teacher_answers")] if method == "seq_fkl" else []
        after = ["train teacher", "train start", *(["generate teacher_answers"] if own else [])]
        for seed in range(1, seeds + 1):
            name = f"{method}-{seed}"
            tasks += [
                train(
                    folder, name, "--config", f"tiny/{method}", "--seed", str(seed),
                    "--model_name_or_path", str(folder / "start"), *teacher, *own, *curves, *short,
                    kind=method, after=after, seconds=seconds,
                ),
                evaluate(
                    folder, name, *scores, *teacher,
                    after=[f"train {name}", "evaluate teacher"], seconds=8,
                ),
            ]  # fmt: skip
    return tasks
