"""Files of conversations: what is read, and how a broken row is named."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kd_lab.data.conversation_files import find_files, read_conversations


def talk(question):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}]


def write_parquet(file, rows):
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


GOOD = '{"prompt": "Hi", "messages": [{"role": "user", "content": "Hi \\u00e9", "id": 3}]}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [}', "not JSON: Expecting value, at column 15"),
        ("[" * 100_000, "recursion"),
        ('"Hi"', r'expected {"messages": \[...\]}, found a string'),
        ('{"prompt": "Hi", "text": ""}', "no key 'messages' .it has 'prompt', 'text'"),
        ('{"messages": "Hi"}', "messages must be a list, not a string"),
        ('{"messages": ["Hi"]}', r"messages\[0\] must be an object, not a string"),
        ('{"messages": [{"role": "user"}]}', r"messages\[0\] has no key 'content'"),
        ('{"messages": [{"content": "Hi"}]}', r"messages\[0\] has no key 'role'"),
        ('{"messages": [{"role": "user", "content": null}]}', r"\.content must be .*, not null"),
        ('{"messages": [{"role": "user", "content": ["Hi"]}]}', "a string, not a list"),
        ('{"messages": [{"role": "usr", "content": "Hi"}]}', "is 'usr', not system, user, assis"),
        ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', "surrogates not allowed"),
        (b'{"messages": "\xff"}', "codec can't decode"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    file = tmp_path / "mine.jsonl"
    line = line.encode() if isinstance(line, str) else line
    file.write_bytes(GOOD.encode() + b"\n\n" + line + b"\n")  # an empty line is passed over
    with pytest.raises(ValueError, match=rf"^{file}:3: .*{message}") as caught:
        read_conversations([file])
    assert "\n" not in str(caught.value)


def test_only_role_and_content_are_read(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(f"{GOOD}\n  \n{GOOD}")
    rows = read_conversations([file, file])
    assert rows.column_names == ["messages"]
    assert rows["messages"][:] == [[{"role": "user", "content": "Hi é"}]] * 4
    assert rows.cache_files == []


def test_parquet_is_read_like_json_lines(tmp_path):
    rows = [talk(f"What is {i}?") for i in range(30)]
    file = write_parquet(tmp_path / "a.parquet", [{"id": 1, "messages": m} for m in rows])
    assert read_conversations([file])["messages"][:] == rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "Hi", "id": 1}], r"no column 'messages' \(it has text, id\)"),
        ([{"messages": talk("Hi")}, {"messages": None}], "2: messages must be a list, not null"),
        ([{"messages": talk("Hi")}, {"messages": talk(None)}], r"2: messages\[0\].content must"),
    ],
)
def test_a_broken_row_of_parquet_is_named(tmp_path, rows, message):
    file = write_parquet(tmp_path / "mine.parquet", rows)
    with pytest.raises(ValueError, match=f"^{file}: ?{message}"):
        read_conversations([file])


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    (file := tmp_path / "mine.parquet").write_text("Hi")
    with pytest.raises(ValueError, match=f"^{file}: not a Parquet file"):
        read_conversations([file])


@pytest.mark.parametrize(
    ("files", "train", "test"),
    [
        (["a.jsonl", "b/c.parquet", "notes.txt"], ["a.jsonl", "c.parquet"], []),
        ([".a.jsonl", ".toy.part/train.jsonl", "b/.c/d.jsonl", "mine.jsonl"], ["mine.jsonl"], []),
        (["train.jsonl", "test.jsonl", "more.jsonl"], ["train.jsonl"], ["test.jsonl"]),
        (["mine.jsonl", "test-1.jsonl"], ["mine.jsonl"], ["test-1.jsonl"]),
        (
            ["data/train_sft-0.parquet", "data/train_gen-0.parquet", "data/test_sft-0.parquet"],
            ["train_sft-0.parquet"],
            ["test_sft-0.parquet"],
        ),
    ],
)
def test_the_splits_of_a_folder(tmp_path, files, train, test):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_files(tmp_path)
    assert {split: [file.name for file in found[split]] for split in found} == {
        "train": train,
        "test": test,
    }
