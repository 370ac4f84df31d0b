"""Files of conversations: what is read, and how a broken row is named."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kd_lab.data.conversation_files import find_files, read_conversations, unread_files


def talk(question):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}]


def write_parquet(file, rows):
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def write_lines(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


GOOD = '{"prompt": "Hi", "messages": [{"role": "user", "content": "Hi \\u00e9", "id": 3}]}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [}', "not JSON: Expecting value, at column 15"),
        ("[" * 100_000, "recursion"),
        ('"Hi"', r'expected {"messages": \[...\]}, found a string'),
        ('{"text": "Hi", "id": ""}', "no form that is known: it has the keys 'text', 'id'; known"),
        ('{"messages": "Hi"}', "messages must be a list, not a string"),
        ('{"messages": ["Hi"]}', r"messages\[0\] must be an object, not a string"),
        ('{"messages": [{"role": "user"}]}', r"messages\[0\] has no key 'content'"),
        ('{"messages": [{"content": "Hi"}]}', r"messages\[0\] has no key 'role'"),
        ('{"messages": [{"role": "user", "content": null}]}', r"\.content must be .*, not null"),
        ('{"messages": [{"role": "user", "content": ["Hi"]}]}', "a string, not a list"),
        ('{"messages": [{"role": "usr", "content": "Hi"}]}', "is 'usr', not system, user, assis"),
        ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', "surrogates not allowed"),
        (b'{"messages": "\xff"}', "codec can't decode"),
        (
            '{"prompt": "x", "completion": "good", "completion": "bad"}',
            r"the key 'completion' is given twice \(\"good\" and \"bad\"\): keep one",
        ),
        ('{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "'content' is given"),
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
        ([{"text": "Hi", "id": 1}], r"1: no form that is known: it has the keys 'text', 'id'"),
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
        (["a.jsonl", "b/c.parquet", "notes.txt"], ["a.jsonl", "b/c.parquet"], []),
        ([".a.jsonl", ".toy.part/train.jsonl", "b/.c/d.jsonl", "mine.jsonl"], ["mine.jsonl"], []),
        (["train.JSONL.gz", "manifest.json", "test.json"], ["train.JSONL.gz"], ["test.json"]),
    ],
)
def test_the_files_of_a_folder(tmp_path, files, train, test):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_files(tmp_path)
    named = {split: [f.relative_to(tmp_path).as_posix() for f in found[split]] for split in found}
    assert named == {"train": train, "test": test, "left_out": []}


ROWS = [{"messages": talk(f"Wie heißt {i}?")} for i in range(5)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.json", LINES),
        ("a.json", json.dumps(ROWS, indent=2).encode()),
        ("a.json", b"\xef\xbb\xbf \n" + json.dumps(ROWS).encode()),
        ("a.JSONL", b"\xef\xbb\xbf" + LINES),
        ("a.jsonl.gz", gzip.compress(LINES)),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode())),
    ],
)
def test_json_is_read_as_lines_or_as_an_array_and_gzipped(tmp_path, name, content):
    (file := tmp_path / name).write_bytes(content)
    assert read_conversations([file])["messages"][:] == [row["messages"] for row in ROWS]


def test_gzipped_parquet_is_read(tmp_path):
    plain = write_parquet(tmp_path / "a.parquet", ROWS)
    (file := tmp_path / "a.parquet.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert read_conversations([file])["messages"][:] == [row["messages"] for row in ROWS]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.json",
            b'[{"messages": []},\n {"messages": ]',
            ":2: not JSON: Expecting value, at column",
        ),
        ("a.json", b'{\n"messages": []}', ":1: not JSON: .*one array, or an object on each line"),
        ("a.json", b'[{"messages": []}, 3]', ":2: expected .*, found 3"),
        (
            "a.json",
            b'\xef\xbb\xbf [{"a": 1}\n , {"a": 1, "a": 2}]',
            ":2: the key 'a' is given twice",
        ),
        ("a.json", b'["\xff"]', ": .*codec can't decode"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:40], ": a damaged gzip file"),
        ("a.jsonl.gz", LINES, ": a damaged gzip file"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", ":1: not JSON"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    (file := tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{file}{message}"):
        read_conversations([file])


def test_two_columns_of_one_name_are_refused(tmp_path):
    columns = [pa.array(["Hi"]), pa.array(["Hello"]), pa.array(["Bye"])]
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns, names=["prompt", "completion", "completion"]), file)
    with pytest.raises(ValueError, match=f"^{file}: it has two columns 'completion'"):
        read_conversations([file])


def test_files_of_other_kinds_are_known(tmp_path):
    for name in ("a.jsonl", "b.csv", "c/d.jsonl.zst", "e.csv.gz", "README.md", ".f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    unread = [file.relative_to(tmp_path).as_posix() for file in unread_files(tmp_path)]
    assert unread == ["b.csv", "c/d.jsonl.zst", "e.csv.gz"]


def test_folders_of_models_and_of_other_stores_hold_no_conversations(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / "config.json").touch()
    assert find_files(tmp_path)["train"]  # alone, it may lie beside data
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="holds a model, and no conversations"):
        find_files(tmp_path)
    for kind, settings, writer in ("cache", {}, "cache"), ("answers", {"writer": {}}, "evaluate"):
        manifest = {"kind": kind, "settings": settings}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ValueError, match=f"written by `kd-lab {writer}`, and holds no conver"):
            find_files(tmp_path)


def test_a_damaged_page_of_parquet_names_its_file(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", [{"messages": talk("x" * 5000)}] * 400)
    content = bytearray(file.read_bytes())
    content[20:60] = bytes(40)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{file}: "):
        read_conversations([file])


def test_long_rows_are_cut_into_pieces_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("kd_lab.data.conversation_files.BYTES_AT_A_TIME", 10_000)
    rows = [{"messages": talk("x" * size)} for size in (6000, 6000, 50, 20_000, 1)]
    for file in (
        write_parquet(tmp_path / "a.parquet", rows),
        write_lines(tmp_path / "a.jsonl", rows),
    ):
        read = read_conversations([file])
        assert read.data.column("messages").num_chunks == 3
        assert read["messages"][:] == [row["messages"] for row in rows]


def test_fields_and_columns_appear_only_where_a_row_needs_them(tmp_path):
    weighted = [*talk("Hi")[:1], {"role": "assistant", "content": "No.", "weight": 0}]
    rows = [{"messages": talk("Hi")}, {"messages": weighted, "tools": [{"name": "look"}]}]
    read = read_conversations([write_lines(tmp_path / "a.jsonl", rows)])
    assert read.column_names == ["messages", "tools"]
    assert [m["trained"] for m in read[1]["messages"]] == [None, False]
    assert read["tools"][:] == [None, '[{"name": "look"}]']
