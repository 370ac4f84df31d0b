"""Drawing conversations and writing them; that nothing is tested on that is trained."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_lab.data.conversation_files import read_conversations
from kd_lab.data.conversations import (
    DataArguments,
    check_data_arguments,
    draw_conversations,
    load_conversations,
)
from kd_lab.data.messages import prompt_key
from kd_lab.data.toy_language import ANSWERS, understand
from tests.helpers.own_conversations import numbered, questions, talk, write_jsonl, write_parquet

# --- drawing -----------------------------------------------------------------------------------


def test_more_of_one_seed_are_the_same_and_more_besides(tmp_path):
    mine = write_jsonl(tmp_path / "train.jsonl", *numbered(500))
    write_jsonl(tmp_path / "test.jsonl", *numbered(20, 1000))
    args = DataArguments(str(tmp_path), num_conversations=50, num_test_conversations=5)
    few = load_conversations(args)
    more = load_conversations(replace(args, num_conversations=300, num_test_conversations=9))
    assert (len(few["train"]), len(few["test"])) == (50, 5)
    for split in ("train", "test"):
        assert questions(more[split])[: len(few[split])] == questions(few[split])
    assert len(set(questions(more["train"]))) == 300
    other = load_conversations(replace(args, conversation_seed=1))
    assert questions(other["train"]) != questions(few["train"])
    # All of them come as they are in the file, by their number too.
    for all_of_them in (None, 500):
        every = load_conversations(replace(args, num_conversations=all_of_them))["train"]
        assert every["messages"][:] == read_conversations([Path(mine)])["messages"][:]


@given(
    train=st.lists(st.integers(0, 60), min_size=1, max_size=40),
    test=st.lists(st.integers(0, 60), min_size=1, max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None)
def test_no_prompt_is_both_trained_and_tested(tmp_path_factory, train, test, seed):
    folder = tmp_path_factory.mktemp("both")
    write_jsonl(folder / "train.jsonl", *(talk(f"What is {i}?") for i in train))
    write_jsonl(folder / "test.jsonl", *(talk(f" WHAT  is\n{i}? ", "No.") for i in test))
    left = [i for i in train if i not in test]
    args = DataArguments(str(folder), conversation_seed=seed)
    if not left:
        with pytest.raises(ValueError, match=f"there are 0, besides {len(train)} that begin as a"):
            draw_conversations(args)
        return
    drawn, overlapping, _ = draw_conversations(args)
    assert questions(drawn["train"]) == [f"What is {i}?" for i in left]
    assert len(drawn["test"]) == len(test)
    assert overlapping == len(train) - len(left)
    # What is trained depends on the test split, and not on how much of it is tested.
    fewer = draw_conversations(replace(args, num_test_conversations=1))
    assert questions(fewer.conversations["train"]) == questions(drawn["train"])
    # And a draw leaves nothing out that it could have had.
    counted = replace(args, num_conversations=len(left))
    assert sorted(questions(load_conversations(counted)["train"])) == sorted(
        questions(drawn["train"])
    )


@given(prompts=st.lists(st.integers(0, 100), min_size=1, max_size=80), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_file_alone_is_split_by_prompt(tmp_path_factory, prompts, seed):
    file = tmp_path_factory.mktemp("one") / "mine.jsonl"
    write_jsonl(file, *(talk(f"What is {i}?", f"Answer {n}.") for n, i in enumerate(prompts)))
    args = DataArguments(str(file), conversation_seed=seed)
    distinct = len(set(prompts))
    if distinct == 1:
        with pytest.raises(ValueError, match=r"begin alike.*give --test_dataset"):
            load_conversations(args)
        return
    drawn, overlapping, _ = draw_conversations(args)
    trained, tested = (questions(drawn[split]) for split in ("train", "test"))
    assert sorted(trained + tested) == sorted(f"What is {i}?" for i in prompts)
    assert not set(trained) & set(tested)
    assert len(set(tested)) == max(1, round(distinct / 20))
    assert overlapping == 0
    assert questions(load_conversations(args)["test"]) == tested


def test_the_prompt_is_all_that_comes_before_the_first_answer():
    system = {"role": "system", "content": "Be KIND."}
    assert prompt_key([system, *talk("Ｈｅ\n llo")]) == "be kind. he llo"
    assert prompt_key([system, *talk("Hi")]) != prompt_key(talk("Hi"))
    assert prompt_key(talk("Hi", "Yes.")) == prompt_key(talk("Hi", "No.") + talk("So?"))


def test_test_conversations_from_another_source(tmp_path):
    mine = write_jsonl(tmp_path / "mine.jsonl", *numbered(10))
    other = write_jsonl(tmp_path / "other.jsonl", *numbered(6, 8))
    drawn, overlapping, _ = draw_conversations(DataArguments(mine, test_dataset=other))
    assert questions(drawn["train"]) == [f"What is {i}?" for i in range(8)]
    assert questions(drawn["test"]) == [f"What is {i}?" for i in range(8, 14)]
    assert overlapping == 2
    toys = load_conversations(DataArguments(mine, test_dataset="toy", num_test_conversations=3))
    assert (len(toys["train"]), len(toys["test"])) == (10, 3)


def test_the_toy_language():
    args = DataArguments(num_conversations=2000, num_test_conversations=700, two_turn_share=0.5)
    drawn, overlapping, _ = draw_conversations(args)
    assert (len(drawn["train"]), len(drawn["test"]), overlapping) == (2000, 700, 0)
    asked, ranks = {}, {}
    for split, rows in drawn.items():
        turns = [
            (m[i]["content"], m[i + 1]["content"])
            for m in rows["messages"]
            for i in range(0, len(m), 2)
        ]
        asked[split] = {question for question, _ in turns}
        ranks[split] = [rank(question, answer) for question, answer in turns][:700]
    assert not asked["train"] & asked["test"]
    # Drawn apart: where one answers with its likeliest sentence, the other need not.
    assert sum(a == b for a, b in zip(*ranks.values(), strict=True)) < 0.3 * 700
    more = load_conversations(replace(args, num_conversations=2500))
    assert more["train"]["messages"][:2000] == drawn["train"]["messages"][:]


def rank(question, answer):
    intent, guest, hour = understand(question)
    return [t.format(guest=guest, hour=hour) for t in ANSWERS[intent]].index(answer)


def test_ultrachat_gives_its_sft_splits_and_the_messages_alone(tmp_path, monkeypatch):
    # Laid out as on the hub: `messages` has content first, and `prompt` repeats the first message.
    def rows(first, count):
        return [
            {
                "prompt": m[0]["content"],
                "prompt_id": str(i),
                "messages": [{"content": t["content"], "role": t["role"]} for t in m],
            }
            for i, m in enumerate(numbered(count, first))
        ]

    copy = tmp_path / "ultrachat_200k"
    for name, first, count in (
        ("train_sft-00000-of-00002-a3ec", 0, 30),
        ("train_sft-00001-of-00002-0a18", 30, 30),
        ("test_sft-00000-of-00001-f7df", 55, 10),
        ("train_gen-00000-of-00001-a6c9", 200, 10),
        ("test_gen-00000-of-00001-3d4c", 300, 10),
    ):
        write_parquet(copy / "data" / f"{name}.parquet", rows(first, count))
    splits = ("train_sft", "test_sft", "train_gen", "test_gen")
    listed = "".join(f"  - split: {s}\n    path: data/{s}-*\n" for s in splits)
    (copy / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{listed}---\n"
    )
    monkeypatch.setattr("kd_lab.data.sources.ULTRACHAT", str(copy))
    monkeypatch.setattr("kd_lab.data.hub_dataset.hub_commit", lambda *asked: "of the copy")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    args = DataArguments("ultrachat", num_conversations=40, num_test_conversations=4)
    named, overlapping, _ = draw_conversations(args)
    assert named["train"].column_names == named["test"].column_names == ["messages"]
    assert set(questions(named["train"])) < {f"What is {i}?" for i in range(55)}
    assert set(questions(named["test"])) < {f"What is {i}?" for i in range(55, 65)}
    assert 0 < overlapping <= 5
    # The same files in a folder of one's own are the same conversations.
    assert draw_conversations(replace(args, dataset=str(copy)))[1] == overlapping
    own = load_conversations(replace(args, dataset=str(copy)))
    assert {s: own[s]["messages"][:] for s in own} == {s: named[s]["messages"][:] for s in named}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "toyy"}, r"no such file or folder: toyy \(nor is it one of toy, ultrachat, "),
        ({"test_dataset": "nowhere/x.jsonl"}, "no such file or folder: nowhere/x.jsonl"),
        ({"dataset": "{}"}, r"no .jsonl, .json, .parquet file \(or .gz of one\) in this folder"),
        ({"dataset": "{}/mine.txt"}, "mine.txt: conversations come in .jsonl, .json, .par"),
        ({"num_conversations": 0}, "num_conversations must be at least 1, not 0"),
        ({"num_test_conversations": -1}, "num_test_conversations must be at least 1, not -1"),
        ({"conversation_seed": -1}, "conversation_seed must lie in .*, not -1"),
        ({"two_turn_share": 1.5}, "two_turn_share must lie in .*, not 1.5"),
        ({"dataset": "ultrachat", "two_turn_share": 0.5}, "is for the toy language"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(tmp_path, changes, message):
    (tmp_path / "mine.txt").touch()
    changes = {k: v.format(tmp_path) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(ValueError, match=message):
        check_data_arguments(DataArguments(**changes))


def test_asking_for_more_than_there_are_is_refused(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", *numbered(10))
    write_jsonl(tmp_path / "test.jsonl", *numbered(2, 9))
    with pytest.raises(ValueError, match="10 training conversations wanted, but there are 9, besi"):
        load_conversations(DataArguments(str(tmp_path), num_conversations=10))
    with pytest.raises(ValueError, match="3 test conversations wanted, but there are 2"):
        load_conversations(DataArguments(str(tmp_path), num_test_conversations=3))
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(ValueError, match="all names in it say test or validation"):
        load_conversations(DataArguments(str(tmp_path)))


def test_nothing_is_held_out_where_nothing_is_tested(tmp_path):
    args = DataArguments(
        write_jsonl(tmp_path / "mine.jsonl", *numbered(100)), num_conversations=100
    )
    assert len(load_conversations(args, ["train"])["train"]) == 100
    with pytest.raises(ValueError, match="100 training conversations wanted, but there are 95"):
        load_conversations(args)


def test_what_is_held_out_unasked_is_said_and_what_is_asked_for_is_the_same_everywhere(tmp_path):
    args = DataArguments(write_jsonl(tmp_path / "mine.jsonl", *numbered(100)))
    both, _, notes = draw_conversations(args)
    [note] = notes
    assert note.startswith(f"{args.dataset}: held out 5 of 100 conversations to test on")
    asked = replace(args, test_share=0.2)
    train, test = (draw_conversations(asked, [split]) for split in ("train", "test"))
    assert train.notes == test.notes == []
    assert [*train.conversations, *test.conversations] == ["train", "test"]
    assert len(train.conversations["train"]) == 80
    assert not {*questions(train.conversations["train"])} & {*questions(test.conversations["test"])}
    assert {*questions(both["test"])} < {*questions(test.conversations["test"])}
    for wrong, message in (
        (replace(args, test_share=1.0), "test_share must lie between 0 and 1"),
        (replace(asked, test_dataset="toy"), "test_share is for one source without a test split"),
        (replace(asked, dataset="toy"), "test_share is for one source without a test split"),
    ):
        with pytest.raises(ValueError, match=message):
            check_data_arguments(wrong)
    write_jsonl(tmp_path / "test.jsonl", *numbered(2, 200))
    with pytest.raises(ValueError, match=r"test_share is given, and .* has a test split already"):
        load_conversations(replace(asked, dataset=str(tmp_path)))


def test_a_file_whose_name_says_test_is_never_trained(tmp_path):
    args = DataArguments(write_jsonl(tmp_path / "chat_test.jsonl", *numbered(9)))
    with pytest.raises(ValueError, match="so there is nothing to train on"):
        load_conversations(args, ["train"])
    assert len(load_conversations(args, ["test"])["test"]) == 9
    # Where it is named as what to test on, its name does not matter.
    mine = write_jsonl(tmp_path / "more.train.jsonl", *numbered(4, 50))
    assert len(load_conversations(replace(args, test_dataset=mine), ["test"])["test"]) == 4


def test_the_form_and_what_was_left_alone_are_noted(tmp_path):
    rows = [
        {"prompt": f"What is {i}?", "completion": "A number.", "source": "me"} for i in range(40)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_jsonl(tmp_path / "test.jsonl", *numbered(3, 100))
    write_jsonl(tmp_path / "val.jsonl", *numbered(3, 200))
    (tmp_path / "more.csv").write_text("prompt,completion\nHi,Hello\n")
    assert draw_conversations(DataArguments(str(tmp_path))).notes == [
        f"{tmp_path}: left out 1 files, of another split (val.jsonl)",
        f"{tmp_path}: did not read 1 files (more.csv): conversations come in .jsonl, .json, "
        ".parquet files or their .gz",
        f"{tmp_path}: took the form prompt and completion: 40 rows; messages: 3 rows",
        f"{tmp_path}: did not use the keys 'source' (40 rows)",
    ]


def test_a_greeting_before_the_question_is_part_of_what_is_asked():
    greeting = {"role": "assistant", "content": "Hello!"}
    assert prompt_key([greeting, *talk("Hi")]) == "hello! hi"
    assert prompt_key([greeting]) == "hello!"
