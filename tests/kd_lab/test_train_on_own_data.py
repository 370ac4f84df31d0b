"""``kd-lab train`` on data in every form and kind of file that people have: a step of each."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from kd_lab.cli import main
from kd_lab.data.conversations import DataArguments
from kd_lab.data.toy_language import conversations
from kd_lab.evaluation.held_out import trained_and_tested

SHAPE = "{hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
SHAPE += "num_key_value_heads: 2}"
TALKS = [[message["content"] for message in row["messages"]] for row in conversations(40, seed=5)]


def messages(question, answer, **of_answer):
    asked = {"role": "user", "content": question}
    return {"messages": [asked, {"role": "assistant", "content": answer, **of_answer}]}


FORMS = {
    "messages": messages,
    "openai": lambda q, a: {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": q}]},
            {"role": "assistant", "content": a, "weight": 1, "refusal": None},
        ],
        "parallel_tool_calls": None,
    },
    "sharegpt": lambda q, a: {
        "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]
    },
    "trl": lambda q, a: {"prompt": q, "completion": a},
    "trl_messages": lambda q, a: {
        "prompt": messages(q, a)["messages"][:1],
        "completion": messages(q, a)["messages"][1:],
    },
    "alpaca": lambda q, a: {"instruction": q, "input": "", "output": a},
}


def write(file, rows):
    text = "\n".join(map(json.dumps, rows))
    if file.name.endswith(".json"):
        text = json.dumps(rows, indent=1)
    content = text.encode()
    if ".parquet" in file.name:
        plain = file.with_name("plain")
        pq.write_table(pa.Table.from_pylist(rows), plain)
        content = plain.read_bytes()
        plain.unlink()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


QUICK = ["--alpha", "0", "--max_steps", "1", "--per_device_train_batch_size", "40"]
QUICK += ["--use_cpu", "true", "--disable_tqdm", "true", "--logging_steps", "1"]


def train(tmp_path, *words):
    written = ["--output_dir", str(tmp_path / "run")]
    return main(["train", "--model_shape", SHAPE, *QUICK, *written, *words])


def first_loss(tmp_path):
    line = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0]
    return json.loads(line)["loss"]


@pytest.fixture(scope="module")
def plain_loss(tmp_path_factory):
    """The loss of the first step on the same conversations as plain messages."""
    folder = tmp_path_factory.mktemp("plain")
    write(folder / "mine.jsonl", [messages(*talk) for talk in TALKS])
    assert train(folder, "--dataset", str(folder / "mine.jsonl")) == 0
    return first_loss(folder)


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("messages", "mine.json"),
        ("openai", "mine.jsonl.gz"),
        ("sharegpt", "mine.parquet"),
        ("trl", "mine.parquet.gz"),
        ("trl_messages", "mine.json.gz"),
        ("alpaca", "mine.JSONL"),
    ],
)
def test_every_form_trains_the_same_step(tmp_path, plain_loss, form, name):
    write(tmp_path / name, [FORMS[form](*talk) for talk in TALKS])
    assert train(tmp_path, "--dataset", str(tmp_path / name)) == 0
    assert first_loss(tmp_path) == plain_loss
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["dataset"] == str(tmp_path / name)


def test_answers_of_weight_0_are_not_trained(tmp_path, plain_loss):
    """A conversation whose answers are all context gives no row, and the others train as before."""
    wrong = [messages(question, "wrong", weight=0) for question, _ in TALKS]
    write(tmp_path / "mine.jsonl", [*wrong, *(messages(*talk) for talk in TALKS)])
    assert train(tmp_path, "--dataset", str(tmp_path / "mine.jsonl")) == 0
    assert first_loss(tmp_path) == plain_loss


def test_a_run_is_not_evaluated_on_what_it_trained_on(tmp_path, capsys):
    mine = tmp_path / "mine.jsonl"
    write(mine, [messages(*talk) for talk in TALKS])
    assert train(tmp_path, "--dataset", str(mine)) == 0
    evaluate = ["evaluate", "--model_name_or_path", str(tmp_path / "run"), "--dataset", str(mine)]
    assert main(evaluate) == 2
    said = capsys.readouterr().err
    assert f"was trained on conversations of {mine} that this would test on" in said
    assert "--test_share" in said


@pytest.mark.parametrize("given", ["d", "./d", "d/", "../{name}/d", "{folder}/d", "linked"])
@pytest.mark.parametrize("recorded", ["d", "{folder}/d/"])
def test_a_folder_is_the_same_in_each_of_its_spellings(tmp_path, monkeypatch, recorded, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "linked").symlink_to("d")
    write(tmp_path / "d" / "mine.jsonl", [messages(*talk) for talk in TALKS])
    trained, tested = (
        path.format(name=tmp_path.name, folder=tmp_path) for path in (recorded, given)
    )
    config = {"dataset": trained, "conversation_seed": 0}
    assert trained_and_tested(config, DataArguments(tested))
    assert not trained_and_tested(config | {"dataset": "e"}, DataArguments(tested))


@pytest.mark.parametrize(
    ("trained", "tested", "both"),
    [
        ({}, {}, True),  # nothing was held out
        ({"eval_strategy": "steps"}, {}, False),  # the same twentieth
        ({"eval_strategy": "steps"}, {"conversation_seed": 1}, True),
        ({"eval_strategy": "steps"}, {"test_share": 0.2}, True),
        ({"test_share": 0.2}, {}, False),  # the twentieth is a part of the fifth
        ({"test_share": 0.2}, {"test_share": 0.2}, False),
        ({"eval_strategy": "steps", "test_dataset": "other.jsonl"}, {}, True),
        ({}, {"test_dataset": "other.jsonl"}, False),
        ({"dataset": "another.jsonl"}, {}, False),
        ({"split": "test", "test_share": 0.2}, {"test_share": 0.2}, True),  # stored answers to it
    ],
)
def test_what_was_not_held_out_is_known_to_be_trained(tmp_path, trained, tested, both):
    mine = str(tmp_path / "mine.jsonl")
    write(tmp_path / "mine.jsonl", [messages(*talk) for talk in TALKS])
    config = {"dataset": mine, "conversation_seed": 0} | trained
    assert trained_and_tested(config, DataArguments(mine, **tested)) is both
    if not tested.get("test_dataset"):  # which is another source, or not even there
        whole = DataArguments("toy", test_dataset=mine)
        assert trained_and_tested(config, whole) is (config["dataset"] == mine)
    (named := tmp_path / "named").mkdir()
    for split in ("train", "test"):
        write(named / f"{split}.jsonl", [messages(*talk) for talk in TALKS])
    if "split" not in trained:
        assert not trained_and_tested(config | {"dataset": str(named)}, DataArguments(str(named)))
