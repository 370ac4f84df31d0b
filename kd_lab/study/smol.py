"""The study on a real pretrained model: SmolLM2-135M-Instruct, and students of half its layers.

The teacher has no data set, so it writes its own questions and answers them. All students have the
teacher's every other layer, which alone writes no sensible text. They learn the same stored
answers: by SFT, or by half SFT and half a divergence, as most of the post's students do.
"""

from collections.abc import Collection
from pathlib import Path

from kd_lab.data.shards import MANIFEST
from kd_lab.smollm2 import FOLDER
from kd_lab.study.commands import evaluate, generate, train
from kd_lab.study.schedule import Task

QUESTIONS, TEST_QUESTIONS = 320, 64
PARTS = 2  # of the questions, so that two cores can write them
ANSWER_TOKENS = 48
STEPS, ROWS = 50, 8

# Recipes of smol/, with the seconds that a step takes on one core of 2026.
SECONDS = {"seqkd": 5.0, "token_fkl": 7.0, "token_rkl": 7.0}


def smol_study(
    folder: Path,
    seeds: int,
    quick: bool = False,
    methods: Collection[str] = tuple(SECONDS),
    temperature: int = 1,
) -> list[Task]:
    """All tasks, each after those it needs.

    Args:
        folder, seeds, quick: as in ``toy_study``.
        methods: names in SECONDS.
        temperature: of both distributions in the divergence.
    """
    questions, test_questions, steps = (8, 4, 2) if quick else (QUESTIONS, TEST_QUESTIONS, STEPS)
    teacher = ["--teacher_model_name_or_path", str(FOLDER)]
    tasks = []
    for part in map(str, range(1, PARTS + 1)):
        place = folder / "questions" / part
        words = (
            "questions", *teacher, "--output_dir", str(place), "--question_seed", part,
            "--num_questions", str(questions // PARTS),
            "--num_test_questions", str(test_questions // PARTS),
            "--max_new_tokens", "40",
        )  # fmt: skip
        tasks.append(Task(f"ask {part}", words, place / MANIFEST, kind="ask", seconds=110))
    questions_tasks = [task.name for task in tasks]
    for split, share in ("train", 0.83), ("test", 0.17):
        tasks.append(
            generate(
                folder, f"{split}_answers", *teacher, "--dataset", str(folder / "questions"),
                "--split", split, "--max_new_tokens", str(ANSWER_TOKENS),
                "--rows_per_shard", "64", after=questions_tasks, seconds=180 * share,
            )
        )  # fmt: skip
    answers = str(folder / "train_answers")
    rows = ["--dataset", answers, "--test_dataset", str(folder / "test_answers")]
    scores = [*rows, "--max_new_tokens", str(ANSWER_TOKENS), "--rollout_batch_size", "16"]
    tasks.append(
        evaluate(
            folder, "teacher", *scores, model=str(FOLDER), seconds=60,
            after=["generate train_answers", "generate test_answers"],
        )
    )  # fmt: skip
    curves = ["--eval_strategy", "steps", "--eval_steps", "10", "--eval_on_start", "true"]
    curves += ["--num_test_conversations", "4" if quick else "16"]
    curves += ["--num_conversations", "1"]  # of the dataset; training uses the answers
    warm = [] if temperature == 1 else ["--distil_temperature", str(temperature)]
    for method in methods:
        kind, seconds = kind_at(method, temperature), SECONDS[method]
        for seed in range(1, seeds + 1):
            name = f"{kind}-{seed}"
            tasks += [
                train(
                    folder, name, "--config", f"smol/{method}", "--seed", str(seed), *teacher,
                    "--model_name_or_path", str(FOLDER), *rows, *curves, *warm,
                    "--prefixes", "teacher", "--answers", answers, "--max_steps", str(steps),
                    "--per_device_train_batch_size", str(ROWS),
                    kind=kind, seconds=seconds * steps + 40,
                    after=["generate train_answers", "generate test_answers"],
                ),
                evaluate(
                    folder, name, *scores, *teacher, seconds=80,
                    after=[f"train {name}", "evaluate teacher"],
                ),
            ]  # fmt: skip
    return tasks


def kind_at(method: str, temperature: int) -> str:
    """The name of a method's runs at a temperature, without their seed."""
    return method if temperature == 1 else f"{method}_t{temperature}"
