"""Prompts without answers are enough where a model writes all answers, and only there."""

import json

import pytest

from kd_lab.cli import main
from kd_lab.data.conversations import DataArguments
from kd_lab.data.row_store import RowStore
from tests.helpers.refusal import SHAPE, refusal
from tests.helpers.toy_pair import TOKENIZER, saved_toy_model

QUICK = ["--use_cpu", "true", "--disable_tqdm", "true", "--max_steps", "1", "--save_strategy", "no"]
MINILLM = ["--prefixes", "student", "--alpha", "1", "--policy_gradient", "true"]
MINILLM += ["--divergence", "reverse_kl"]
WRITES = ["--max_new_tokens", "6", "--per_device_train_batch_size", "4"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return saved_toy_model(tmp_path_factory.mktemp("teacher"), 64, 2, seed=2)


@pytest.fixture(scope="module")
def questions(teacher, tmp_path_factory) -> str:
    """As `kd-lab questions` writes them, but of words that a random model would not say."""
    folder = tmp_path_factory.mktemp("questions")
    for name, count in (("train", 12), ("test", 4)):
        rows = [
            {"messages": [{"role": "user", "content": f"When is tour {name} {i} for Mia?"}]}
            for i in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    "who",
    [
        ["--prefixes", "student", "--alpha", "1"],
        ["--prefixes", "dataset", "--student_share", "1", "--alpha", "1"],
        ["--prefixes", "teacher"],
        ["--prefixes", "teacher", "--student_share", "0.5"],
        MINILLM,
    ],
)
def test_questions_are_enough_where_all_answers_are_written(who, teacher, questions, tmp_path):
    words = [
        "--model_shape", SHAPE, *QUICK, *WRITES, *who, "--dataset", questions,
        "--teacher_model_name_or_path", teacher, "--output_dir", str(tmp_path / "run"),
        "--logging_steps", "1",
    ]  # fmt: skip
    assert main(["train", *words]) == 0
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["divergence"] > 0


@pytest.mark.parametrize(
    "who",
    [["--alpha", "0"], ["--student_share", "0.5"]],
)
def test_where_the_dataset_answers_questions_are_not_enough(
    who, teacher, questions, tmp_path, capsys
):
    words = [
        "--model_shape", SHAPE, *QUICK, *WRITES, *who, "--dataset", questions,
        "--teacher_model_name_or_path", teacher, "--output_dir", str(tmp_path / "run"),
    ]  # fmt: skip
    line = refusal(capsys, "train", *words)
    assert "none of 12 training conversations can be used (no assistant turn: 12)" in line
    assert "set prefixes to student or teacher" in line
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_an_evaluation_needs_answers_and_says_so(teacher, questions, tmp_path, capsys):
    words = [
        "--model_shape", SHAPE, *QUICK, "--prefixes", "student", "--alpha", "1",
        "--dataset", questions, "--teacher_model_name_or_path", teacher,
        "--eval_strategy", "steps", "--eval_steps", "1", "--output_dir", str(tmp_path / "run"),
    ]  # fmt: skip
    line = refusal(capsys, "train", *words)
    assert "none of 4 test conversations can be used" in line
    assert "evaluation needs answers to compare with; give a --test_dataset" in line


def test_rows_of_prompts_are_prompts_and_answered_ones_stay_as_they_are(questions, tmp_path):
    answered = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "At six."},
        {"role": "user", "content": "And?"},
    ]
    mine = tmp_path / "mine.jsonl"
    question = [{"role": "user", "content": "When is the tour of the old harbour for Mia and Ben?"}]
    rows = [answered, question]
    mine.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    store = RowStore(DataArguments(str(mine), test_dataset="toy"), TOKENIZER)
    whole, prompt = store.training_rows("train", prompts_suffice=True).rows
    assert [whole] == store.training_rows("train").rows.to_list()
    asked = TOKENIZER.apply_chat_template(question, add_generation_prompt=True)["input_ids"]
    assert prompt["input_ids"] == asked
    assert prompt["prompt_length"] == len(asked)
    assert {*prompt["labels"]} == {-100}
    # A prompt is never cut: it would ask something else.
    few = store.training_rows("train", len(asked) - 1, prompts_suffice=True)
    assert few.dropped == {f"a prompt of more than max_length {len(asked) - 1} tokens": 1}
