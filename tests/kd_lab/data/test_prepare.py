"""``kd-lab data``: what is written, what is refused, and that a failure leaves nothing."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from kd_lab.data.conversations import DataArguments, load_conversations
from kd_lab.data.prepare import PrepareArguments, prepare_data, run
from tests.helpers.own_conversations import numbered, talk, write_jsonl

SMALL = DataArguments(num_conversations=40, num_test_conversations=10, two_turn_share=0.5)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.glob("[!.]*")}


def test_what_is_written_is_what_is_loaded(tmp_path, capsys):
    folder = tmp_path / "new" / "toy"
    (folder.parent / ".toy.part").mkdir(parents=True)  # left behind by a run that was killed
    run(SMALL, PrepareArguments(str(folder)))
    assert f"wrote {folder} (40 training and 10 test conversations)" in capsys.readouterr().out
    assert sorted(contents(folder)) == ["manifest.json", "test.jsonl", "train.jsonl"]
    assert [*folder.parent.iterdir()] == [folder]
    direct, stored = load_conversations(SMALL), load_conversations(DataArguments(str(folder)))
    for split in ("train", "test"):
        assert stored[split]["messages"][:] == direct[split]["messages"][:]

    before = {file: file.stat().st_mtime_ns for file in folder.glob("[!.]*")}
    run(SMALL, PrepareArguments(str(folder)))
    assert "nothing to do, already there" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in folder.glob("[!.]*")} == before
    prepare_data(SMALL, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)


def test_tools_and_weights_are_written_as_they_were_read(tmp_path):
    calling = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look"}}]}
    rows = [
        {
            "messages": [*talk(f"What is {i}?"), {**calling, "weight": 0}],
            "tools": [{"name": "look"}],
        }
        for i in range(40)
    ]
    (file := tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    args = DataArguments(str(file))
    prepare_data(args, tmp_path / "out")
    direct, stored = (
        load_conversations(replace(args, dataset=d)) for d in (str(file), str(tmp_path / "out"))
    )
    for split in ("train", "test"):
        assert direct[split].column_names == stored[split].column_names == ["messages", "tools"]
        assert stored[split][:] == direct[split][:]


def test_a_folder_of_other_conversations_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "mine.jsonl"
    mine = DataArguments(write_jsonl(file, *numbered(40)))
    folder = tmp_path / "out"
    prepare_data(mine, folder)
    before = contents(folder)
    for other, message in (
        (replace(mine, conversation_seed=1), "conversation_seed = 0, and now it is 1"),
        (replace(mine, test_dataset="toy"), "test_dataset = None, and now it is toy"),
    ):
        with pytest.raises(ValueError, match=f"{folder} was written with {message}"):
            prepare_data(other, folder)
    write_jsonl(file, *numbered(41))
    with pytest.raises(ValueError, match=f"was written with {file} = [0-9a-f]+, and now it is "):
        prepare_data(mine, folder)
    assert contents(folder) == before
    (plain := tmp_path / "plain").mkdir()
    (plain / "thesis.txt").write_text("Dear reader")
    for something in (plain, plain / "thesis.txt"):
        with pytest.raises(ValueError, match=f"{something} holds something else"):
            prepare_data(mine, something)


def test_changed_files_are_refused(tmp_path):
    prepare_data(SMALL, folder := tmp_path / "toy")
    file = folder / "train.jsonl"
    file.write_bytes(file.read_bytes().replace(b"Emma", b"Anna", 1))
    message = f"{file} is not what `kd-lab data` wrote: delete {folder}"
    with pytest.raises(ValueError, match=message):
        load_conversations(DataArguments(str(folder)))
    with pytest.raises(ValueError, match=message):
        prepare_data(SMALL, folder)
    file.unlink()
    with pytest.raises(ValueError, match=message):
        load_conversations(DataArguments(str(folder)))
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json: not JSON"):
        load_conversations(DataArguments(str(folder)))


def test_a_run_that_fails_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_text('{"messages": []}\n{')
    with pytest.raises(ValueError, match=r"mine.jsonl:2: not JSON"):
        prepare_data(DataArguments(str(tmp_path / "mine.jsonl")), tmp_path / "out")
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(
        "kd_lab.data.prepare.sha256_of_file", lambda file: (_ for _ in ()).throw(full)
    )
    with pytest.raises(OSError, match="No space left"):
        prepare_data(replace(SMALL, dataset="toy"), tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.jsonl"]


@pytest.mark.slow  # starts Python, and TRL's parser with it
def test_the_command(tmp_path):
    def kd_lab(*words):
        return subprocess.run(
            [sys.executable, "-m", "kd_lab", "data", *words],
            cwd=tmp_path,
            env=os.environ | {"HF_HOME": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )

    finished = kd_lab("--num_conversations", "40", "--output_dir", "toy")
    assert finished.stdout == "wrote toy (40 training and 1,000 test conversations)\n"
    refused = kd_lab("--num_conversations", "41", "--output_dir", "toy")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("kd-lab: error: toy was written with num_con")
    shutil.rmtree(tmp_path / "toy")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("key", ["kind", "settings", "files"])
def test_a_manifest_with_a_renamed_key_is_named(tmp_path, key):
    data = DataArguments(num_conversations=4, num_test_conversations=2)
    prepare_data(data, tmp_path / "data")
    manifest = tmp_path / "data" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"{key}"', f'"{key}_"'))
    with pytest.raises(ValueError, match=r"manifest\.json is not what was written"):
        prepare_data(data, tmp_path / "data")
