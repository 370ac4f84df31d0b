"""A file is there whole or as it was before; a folder likewise; hashes are the textbook's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kd_lab import files
from kd_lab.files import (
    check_replaceable,
    delete_parts,
    delete_remains,
    replace_file,
    sha256_of,
    sha256_of_file,
    whole_file,
    whole_folder,
    write_bytes,
    write_text,
)

# FIPS 180-2, appendix B.1
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_the_hash_of_abc_is_the_standards(tmp_path):
    write_text(tmp_path / "abc", "abc")
    assert sha256_of_file(tmp_path / "abc") == ABC
    assert sha256_of("abc") == sha256_of(b"abc") == sha256_of("a", b"b", "c") == ABC


def test_a_text_is_written_in_utf8_with_its_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "text.json"
    write_text(path, "für\n")
    assert path.read_bytes() == "für\n".encode()
    write_bytes(path, b"other")
    assert path.read_bytes() == b"other"
    assert names(path.parent) == ["text.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.png"
    write_text(path, "old")

    def fails(part: Path) -> None:
        assert part.suffix == ".png"  # libraries choose the format by it
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(path, fails)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.png"]


def test_the_file_has_its_name_only_at_the_end(tmp_path):
    path = tmp_path / "file"
    with whole_file(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"


def test_parts_of_a_killed_process_are_deleted_and_no_others(tmp_path):
    path = tmp_path / "shard-1.jsonl"
    code = (
        "import os, sys, pathlib; from kd_lab.files import replace_file\n"
        "def die(part): part.write_text('half'); os._exit(9)\n"
        "replace_file(pathlib.Path(sys.argv[1]), die)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)])
    assert killed.returncode == 9
    assert len(names(tmp_path)) == 1
    (tmp_path / ".shard-10.jsonl.5.part").write_text("another's")
    delete_parts(path)
    assert names(tmp_path) == [".shard-10.jsonl.5.part"]


def test_remains_of_killed_processes_are_deleted_and_nothing_else(tmp_path):
    remains = (".report.md.1234.part.md", ".tmpFCF09o", ".shard-00001.jsonl.12.part")
    kept = (".lock", "report.md", ".part of mine", ".tmp")
    for name in (*remains, *kept):
        (tmp_path / name).write_text("x")
    delete_remains(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept}


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "data"
    (tmp_path / ".data.part").mkdir()
    (tmp_path / ".data.part" / "of a killed run").touch()
    with pytest.raises(FileNotFoundError), whole_folder(folder) as part:
        (part / "file").rename(part / "other")
    assert names(tmp_path) == []
    folder.mkdir()  # an empty folder may be there
    with whole_folder(folder) as part:
        (part / "file").touch()
    assert names(folder) == ["file"]
    with pytest.raises(OSError, match="not empty"), whole_folder(folder) as part:
        (part / "other").touch()
    assert names(folder) == ["file"]
    assert names(tmp_path) == ["data"]


def test_where_a_link_leads_the_folder_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "elsewhere" / "data").mkdir(parents=True)
    link = tmp_path / "data"
    link.symlink_to("elsewhere/data")
    with whole_folder(link) as part:
        (part / "file").touch()
    assert link.is_symlink()
    assert names(link) == ["file"]
    assert names(tmp_path / "elsewhere") == ["data"]


def test_a_disk_s_place_is_no_place_for_a_new_folder(tmp_path):
    check_replaceable(tmp_path)
    with pytest.raises(ValueError, match=r"output_dir: / is where a disk is mounted"):
        check_replaceable(Path("/"))


def test_a_file_is_written_where_a_folder_cannot_be_opened(tmp_path, monkeypatch):
    """As on Windows, where a folder has no descriptor, and fsync needs the right to write."""

    def opened(path: str, flags: int, *others: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", path)
        assert flags & os.O_RDWR
        return os_open(path, flags, *others)

    os_open = os.open
    monkeypatch.setattr(files, "IS_WINDOWS", True)
    monkeypatch.setattr(files.os, "open", opened)
    with whole_file(tmp_path / "a") as part:
        part.write_text("whole")
    assert (tmp_path / "a").read_text() == "whole"
