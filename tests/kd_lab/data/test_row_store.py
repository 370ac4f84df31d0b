"""Rows are made once: found again, made anew when something changed, and never half there."""

import json
import os
import signal
import subprocess
import sys
import time
from threading import Timer

import pytest

from kd_lab.data import row_store
from kd_lab.data.conversations import DataArguments, load_conversations
from kd_lab.data.examples import generation_prompts, training_examples
from kd_lab.data.row_store import RowStore
from kd_lab.data.toy_tokenizer import toy_tokenizer
from tests.helpers.toy_pair import TOKENIZER

DATA = DataArguments(num_conversations=120, num_test_conversations=20, two_turn_share=0.3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_LAB_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def never_read(monkeypatch):
    """Call it, and from then on no conversation may be read."""

    def read(data, splits):
        raise AssertionError("conversations were read")

    return lambda: monkeypatch.setattr(row_store, "load_conversations", read)


def files(folder, ending):
    return sorted(folder.glob(f"*{ending}"))


def test_rows_are_made_once_and_are_those_of_the_conversations(folder, never_read):
    talks = load_conversations(DATA)
    first = RowStore(DATA, TOKENIZER)
    made = (first.training_rows("train", 40), first.training_rows("test"), first.prompts("train"))
    never_read()
    again = RowStore(DATA, toy_tokenizer())  # another object, as in another process
    found = (again.training_rows("train", 40), again.training_rows("test"), again.prompts("train"))
    expected = (
        training_examples(talks["train"], TOKENIZER, 40),
        training_examples(talks["test"], TOKENIZER),
        generation_prompts(talks["train"], TOKENIZER),
    )
    for by_maker, by_finder, plain in zip(made, found, expected, strict=True):
        assert by_maker.rows.features == by_finder.rows.features == plain.rows.features
        assert by_maker.rows.to_list() == by_finder.rows.to_list() == plain.rows.to_list()
        assert by_maker[1:] == by_finder[1:] == plain[1:]
        assert by_finder.rows.cache_files  # mapped into memory, not read
    assert len(files(folder, ".arrow")) == len(files(folder, ".json")) == 3


def test_where_all_conversations_are_answered_prompts_are_no_rows_of_their_own(
    folder, never_read, tmp_path
):
    answered = RowStore(DATA, TOKENIZER).training_rows("train", 40)
    mine = tmp_path / "mine.jsonl"
    question = {"role": "user", "content": "Hi"}
    talks = [[question, {"role": "assistant", "content": "Hello"}], [question]]
    mine.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    data = DataArguments(str(mine), test_dataset="toy", num_test_conversations=5)
    one = RowStore(data, TOKENIZER).training_rows("train", 40)
    both = RowStore(data, TOKENIZER).training_rows("train", 40, prompts_suffice=True)
    assert (len(one.rows), len(both.rows)) == (1, 2)
    never_read()
    found = RowStore(DATA, TOKENIZER).training_rows("train", 40, prompts_suffice=True)
    assert found.rows.to_list() == answered.rows.to_list()
    assert found[1:] == answered[1:]
    assert len(files(folder, ".arrow")) == 3


def test_test_rows_are_prompts_and_whole_rows_side_by_side(folder):
    talks = load_conversations(DATA)["test"]
    both = RowStore(DATA, TOKENIZER).test_rows(64, 128).rows.to_list()
    prompts = generation_prompts(talks, TOKENIZER, 64).rows.to_list()
    rows = training_examples(talks, TOKENIZER, 128).rows.to_list()
    assert both == [prompt | row for prompt, row in zip(prompts, rows, strict=True)]


def test_what_decides_the_rows_makes_them_anew(folder, tmp_path):
    mine = tmp_path / "mine.jsonl"
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    mine.write_text(json.dumps({"messages": talk}) + "\n")
    data = DataArguments(str(mine), test_dataset="toy", num_test_conversations=5)

    def rows(tokenizer=TOKENIZER, max_length=64):
        return RowStore(data, tokenizer).training_rows("train", max_length).rows.to_list()

    first = rows()
    assert rows() == first
    assert len(files(folder, ".arrow")) == 1
    assert len(rows(max_length=1 + first[0]["prompt_length"])[0]["input_ids"]) < len(
        first[0]["input_ids"]
    )
    other = toy_tokenizer()
    other.chat_template = other.chat_template.replace("'\\n' }}", "'\\n\\n' }}")
    assert rows(other) != first
    talk[1]["content"] = "Good morning"
    mine.write_text(json.dumps({"messages": talk}) + "\n")
    assert rows() != first
    assert len(files(folder, ".arrow")) == 4


@pytest.mark.parametrize("ending", [".arrow", ".json"])
@pytest.mark.parametrize("damage", ["half", "flipped"])
def test_damaged_rows_are_made_anew(folder, ending, damage, caplog):
    first = RowStore(DATA, TOKENIZER).training_rows("train").rows.to_list()
    [file] = files(folder, ending)
    content = bytearray(file.read_bytes())
    if damage == "half":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 3] ^= 1
    file.write_bytes(content)
    again = RowStore(DATA, TOKENIZER).training_rows("train").rows.to_list()
    assert again == first
    if ending == ".arrow":
        assert "is damaged: its rows are made anew" in caplog.text


def test_what_was_left_out_and_read_is_said_again(folder, tmp_path, caplog):
    mine = tmp_path / "mine.jsonl"
    talks = [[{"role": "user", "content": f"Hi {i}"}] for i in range(3)]
    talks[0].append({"role": "assistant", "content": "Hello, and welcome."})
    tested = [{"role": "user", "content": "Hi 9"}, {"role": "assistant", "content": "Bye."}]
    mine.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in [*talks, tested]))
    (tmp_path / "test.jsonl").write_text(json.dumps({"messages": tested}) + "\n")
    data = DataArguments(str(mine), test_dataset=str(tmp_path / "test.jsonl"))
    length = len(training_examples(load_conversations(data)["train"], TOKENIZER).rows[0]["labels"])
    texts = []
    for _ in range(2):
        caplog.clear()
        RowStore(data, TOKENIZER).training_rows("train", length - 1)
        texts.append(sorted(record.getMessage() for record in caplog.records))
    assert texts[0] == texts[1]
    assert len(texts[0]) == 3
    assert "dropped 1 training conversations that begin as a test conversation does" in texts[0]
    assert "left out 2 of 3 training conversations (no assistant turn: 2)" in texts[0]
    assert any("1 of 1 training rows are cut at max_length; 1 of them" in text for text in texts[0])


def test_a_folder_that_cannot_be_written_is_said_once_and_does_without(
    tmp_path, monkeypatch, caplog
):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("KD_LAB_CACHE", str(tmp_path / "file" / "rows"))
    for _ in range(2):
        rows = RowStore(DATA, TOKENIZER).training_rows("train").rows
    assert len(rows) == 120
    assert [record.getMessage()[:28] for record in caplog.records] == [
        "tokenised rows are not kept "
    ]


def test_a_full_disk_loses_no_row(folder, monkeypatch, caplog):
    def full(path, save):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_store, "replace_file", full)
    assert len(RowStore(DATA, TOKENIZER).training_rows("train").rows) == 120
    assert "No space left on device" in caplog.text


def test_what_nobody_used_for_long_is_deleted(folder):
    store = RowStore(DATA, TOKENIZER)
    store.training_rows("train")
    [old] = files(folder, ".arrow")
    [beside] = files(folder, ".json")
    for file in (old, beside):
        os.utime(file, (time.time() - 40 * 24 * 3600,) * 2)
    store.training_rows("train")  # used again
    store.training_rows("test")
    assert old in files(folder, ".arrow")
    for file in (old, beside):
        os.utime(file, (time.time() - 40 * 24 * 3600,) * 2)
    store.training_rows("test", 50)
    assert old not in files(folder, ".arrow")
    assert len(files(folder, ".arrow")) == 2


HOLDER = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_others_wait_for_the_maker_and_a_killed_one_blocks_nobody(folder, caplog):
    store = RowStore(DATA, TOKENIZER)
    store.training_rows("train")
    [rows] = files(folder, ".arrow")
    rows.unlink()
    command = [sys.executable, "-c", HOLDER, str(rows.with_suffix(".lock"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout.readline() == "held\n"
        Timer(1.5, maker.kill).start()
        assert len(store.training_rows("train").rows) == 120
        assert maker.wait() == -signal.SIGKILL
    assert "another process tokenises the same conversations" in caplog.text
