"""Shards: whole or missing at any moment, never mixed, never believed once a byte has flipped."""

import json
import logging

import pytest

from kd_lab.data.shards import ShardStore

SETTINGS = {"model": {"name": "teacher", "sha256": "ab"}, "temperature": 1.0}


def create(folder, settings=None, num_rows=10, rows_per_shard=4, kind="answers"):
    return ShardStore.create(
        folder, kind, settings or SETTINGS, num_rows, rows_per_shard, suffix=".jsonl"
    )


def fill(store):
    written = store.missing()
    for shard in written:
        text = "".join(f"{row}\n" for row in shard.rows)
        store.write(shard, lambda path, text=text: path.write_text(text), tokens=len(shard.rows))
    return [shard.index for shard in written]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_written_and_read(tmp_path):
    store = create(tmp_path / "store")
    assert fill(store) == [0, 1, 2]
    assert store.finish() == {"rows": 10, "tokens": 10, "bytes": 20, "bytes_per_token": 2.0}
    read = ShardStore.open(tmp_path / "store", "answers")
    assert read.settings == SETTINGS
    assert read.manifest["totals"]["bytes"] == 20
    rows = [int(line) for path in read.paths() for line in path.read_text().split()]
    assert rows == list(range(read.num_rows))
    assert [list(shard.rows) for shard in read.shards()][-1] == [8, 9]


def test_goes_on_with_what_is_missing(tmp_path):
    store = create(tmp_path)
    first, second, _ = store.missing()
    store.write(first, lambda path: path.write_text("0\n"), tokens=1)
    untouched = store.path(first).stat().st_mtime_ns
    with pytest.raises(
        ValueError, match=r"1 of 3 shards are there; run the same `kd-lab generate`"
    ):
        ShardStore.open(tmp_path, "answers")

    def save_and_fail(path):
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write(second, save_and_fail, tokens=1)
    assert fill(create(tmp_path)) == [1, 2]
    assert store.path(first).stat().st_mtime_ns == untouched
    assert not list(tmp_path.glob("*part*"))
    ShardStore.open(tmp_path, "answers")


def test_killed_between_any_two_steps(tmp_path):
    store = create(tmp_path)
    fill(store)
    whole, shard = files(tmp_path), store.shards()[1]
    path = store.path(shard)
    sidecar = path.with_name(path.name + ".sidecar")
    sidecar.unlink()  # killed before the sidecar
    (tmp_path / f".{path.name}.77.part").write_text("half")  # or inside the file itself
    assert [s.index for s in store.missing()] == [1]
    assert fill(create(tmp_path)) == [1]
    assert files(tmp_path) == whole


@pytest.mark.parametrize("broken", ["shard-00001.jsonl", "shard-00001.jsonl.sidecar"])
def test_a_flipped_byte_is_named_refused_and_redone(tmp_path, broken, caplog):
    fill(create(tmp_path))
    whole, path = files(tmp_path), tmp_path / broken
    for position in 0, 3, -2:
        flipped = bytearray(whole[broken])
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"00001.jsonl differs .* `kd-lab generate` again"):
            ShardStore.open(tmp_path, "answers")
    with caplog.at_level(logging.WARNING):
        assert fill(create(tmp_path)) == [1]
    assert "shard-00001.jsonl differs from what was written" in caplog.text
    assert files(tmp_path) == whole


def test_other_settings_are_refused_by_name(tmp_path):
    create(tmp_path)
    other = {"model": {"name": "teacher", "sha256": "cd"}, "temperature": 2.0}
    with pytest.raises(ValueError, match=r"with model.sha256 = 'ab', and now it is 'cd'"):
        create(tmp_path, other)
    with pytest.raises(ValueError, match=r"with top_p = 'not set', and now it is 0.9"):
        create(tmp_path, SETTINGS | {"top_p": 0.9})
    with pytest.raises(ValueError, match=r"with temperature = 1.0, and now it is 'not set'"):
        create(tmp_path, {"model": SETTINGS["model"]})
    with pytest.raises(ValueError, match=r"with num_rows = 10, and now it is 11"):
        create(tmp_path, num_rows=11)
    with pytest.raises(ValueError, match=r"written by `kd-lab generate`"):
        create(tmp_path, kind="cache")


def test_a_shard_from_elsewhere_is_no_shard(tmp_path):
    here, there = create(tmp_path / "here"), create(tmp_path / "there", {"temperature": 0.0})
    fill(here)
    fill(there)
    for path in (tmp_path / "there").glob("shard-00001*"):
        (tmp_path / "here" / path.name).write_bytes(path.read_bytes())
    assert [shard.index for shard in here.missing()] == [1]
    for end in "", ".sidecar":  # or one of the same folder under another number
        source = here.path(here.shards()[0])
        (tmp_path / "here" / f"shard-00001.jsonl{end}").write_bytes(
            source.with_name(source.name + end).read_bytes()
        )
    assert [shard.index for shard in here.missing()] == [1]


@pytest.mark.parametrize("change", ["a number of tokens", "null"])
def test_a_changed_sidecar_is_no_sidecar(tmp_path, change):
    store = create(tmp_path)
    fill(store)
    sidecar = tmp_path / "shard-00001.jsonl.sidecar"
    about = json.loads(sidecar.read_text())
    about["tokens"] += 1
    sidecar.write_text("null" if change == "null" else json.dumps(about))
    assert [shard.index for shard in store.missing()] == [1]


def test_a_lacking_shard_is_named(tmp_path):
    fill(create(tmp_path))
    (tmp_path / "shard-00001.jsonl").unlink()
    with pytest.raises(ValueError, match=r"lacks shard-00001.jsonl"):
        ShardStore.open(tmp_path, "answers")


def test_attached_files_are_checked_too(tmp_path):
    store = create(tmp_path)
    with pytest.raises(ValueError, match=r"head.bin is missing"):
        store.attached("head.bin")
    store.attach("head.bin", lambda path: path.write_bytes(b"weights"))
    path = store.attached("head.bin")
    before = path.stat().st_mtime_ns
    store.attach("head.bin", lambda path: path.write_bytes(b"weights"))
    assert path.stat().st_mtime_ns == before
    path.write_bytes(b"weighty")
    with pytest.raises(ValueError, match=r"head.bin is missing or differs"):
        store.attached("head.bin")
    store.attach("head.bin", lambda path: path.write_bytes(b"weights"))
    assert store.attached("head.bin").read_bytes() == b"weights"


def test_folders_that_are_no_store(tmp_path):
    with pytest.raises(ValueError, match=r"not a folder that `kd-lab cache` wrote: it has no man"):
        ShardStore.open(tmp_path / "nowhere", "cache")
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"has no manifest.json but other files \(thesis.txt\)"):
        create(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "cache"})[:-3])
    with pytest.raises(ValueError, match=r"manifest.json cannot be read"):
        ShardStore.open(tmp_path, "cache")
    with pytest.raises(ValueError, match=r"nothing to store"):
        create(tmp_path / "empty", num_rows=0)
    with pytest.raises(ValueError, match=r"cannot write to .*Not a directory"):
        create(tmp_path / "thesis.txt" / "store")


def test_stores_of_other_commands_are_named_by_them(tmp_path):
    fill(create(tmp_path / "own", {"writer": {"name": "student"}}))  # of kd-lab evaluate
    fill(create(tmp_path / "cache", kind="cache"))
    for name, manifest in (
        ("data", {"kind": "conversations"}),
        ("questions", {"kind": "conversations", "teacher": {}}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
    writers = {"own": "evaluate", "cache": "cache", "data": "data", "questions": "questions"}
    for name, writer in writers.items():
        told = f"{name} was written by `kd-lab {writer}`, where what `kd-lab generate` writes is"
        with pytest.raises(ValueError, match=told):
            ShardStore.open(tmp_path / name, "answers")
        with pytest.raises(ValueError, match=told):
            create(tmp_path / name)
    assert create(tmp_path / "own", {"writer": {"name": "student"}}).is_finished()
    (tmp_path / "own" / "manifest.json").write_text('{"kind": "answers"}')
    with pytest.raises(ValueError, match="cannot be read"):
        ShardStore.open(tmp_path / "own", "answers")
