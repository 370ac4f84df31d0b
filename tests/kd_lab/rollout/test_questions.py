"""Questions that a chat model writes itself, from the empty user turn of its template."""

import json

import pytest

from kd_lab.cli import main
from kd_lab.data.conversations import DataArguments, load_conversations
from kd_lab.rollout.questions import is_question, user_header
from tests.helpers.toy_pair import TOKENIZER, saved_toy_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return saved_toy_model(tmp_path_factory.mktemp("model"), 32, 1, seed=0)


def words(model: str, folder, **others) -> list[str]:
    settings = {
        "teacher_model_name_or_path": model,
        "output_dir": folder,
        "num_questions": 4,
        "num_test_questions": 2,
        "max_new_tokens": 60,
    } | others
    return ["questions", *(str(word) for key, v in settings.items() for word in (f"--{key}", v))]


def test_it_begins_where_the_user_would_speak():
    asked = TOKENIZER.apply_chat_template([{"role": "user", "content": "Hello?"}], tokenize=False)
    header = user_header(TOKENIZER)
    assert asked.startswith(f"{header}Hello?")
    assert header.endswith("user\n")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Can you help me?", True),
        ("Help me.", False),
        ("", False),
        ("Here is my list:\n1. Bread and butter", False),
    ],
)
def test_what_can_be_asked(text, kept):
    assert is_question(text) == kept


def test_written_once_and_read_as_conversations(model, tmp_path, capsys):
    folder = tmp_path / "questions"
    assert main(words(model, folder)) == 0
    assert "6 questions" in capsys.readouterr().out
    data = load_conversations(DataArguments(dataset=str(folder)))
    asked = [row["messages"] for split in ("train", "test") for row in data[split]]
    assert (len(data["train"]), len(data["test"])) == (4, 2)
    assert all([message["role"] for message in messages] == ["user"] for messages in asked)
    texts = [messages[0]["content"] for messages in asked]
    assert all(map(is_question, texts))
    assert len({tuple(text.casefold().split()[:5]) for text in texts}) == 6

    before = {path.name: path.read_bytes() for path in folder.glob("[!.]*")}
    assert main(words(model, folder)) == 0
    assert {path.name: path.read_bytes() for path in folder.glob("[!.]*")} == before
    again = tmp_path / "again"
    assert main(words(model, again)) == 0
    assert (again / "train.jsonl").read_bytes() == before["train.jsonl"]
    assert json.loads(before["manifest.json"])["written"] >= 6

    assert main(words(model, folder, question_seed=1)) == 2
    assert "holds something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"num_questions": 0}, "num_questions must be at least 1"),
        ({"top_p": 1.5}, "top_p"),
        ({"teacher_model_name_or_path": "runs/none"}, "runs/none"),
        ({"max_new_tokens": 2}, "nothing new"),  # too short to be asked
    ],
)
def test_what_cannot_be_done_is_one_line(model, wrong, said, tmp_path, capsys):
    assert main(words(model, tmp_path / "q", **wrong)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd-lab:")]
    assert len(errors) == 1
    assert said in errors[0]
    assert not list(tmp_path.iterdir())
