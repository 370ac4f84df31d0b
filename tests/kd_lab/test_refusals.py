"""What each kind of exception becomes: one line, and an exit code."""

import errno
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from kd_lab.cli import main
from kd_lab.files import DiskFull, check_room, whole_file, whole_folder
from kd_lab.refusals import refusal


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ValueError("alpha is\n  2"), "kd-lab: error: alpha is 2", 2),
        (FloatingPointError("the loss is nan"), "kd-lab: error: the loss is nan", 1),
        (OSError(errno.EACCES, "Permission denied", "a/b"), "a/b: Permission denied", 2),
        (OSError("a library's own words"), "a library's own words", 2),
        (ImportError("needs wandb\nRun pip install wandb"), "a package is missing: needs wandb", 2),
        (MemoryError(), "memory ran out", 1),
        (KeyError("x"), "a fault of KD Lab: KeyError: 'x'", 1),
        (AssertionError(), "a fault of KD Lab: AssertionError: AssertionError", 1),
    ],
)
def test_every_exception_is_one_line_and_a_code(error, line, code):
    told = refusal(error)
    assert line in told.line
    assert "\n" not in told.line
    assert told.code == code


def test_a_fault_names_the_last_of_our_own_frames(monkeypatch, capsys):
    def faulty(*_: object, tell: bool) -> None:
        raise KeyError("nowhere")

    monkeypatch.setattr("kd_lab.cli._run", faulty)
    assert main(["report"]) == 1
    assert "KeyError: 'nowhere' (kd_lab/cli.py:" in capsys.readouterr().err


def break_off(writing: AbstractContextManager[Path], name: str, error: Exception) -> None:
    """Write half of a file, then fail."""
    with writing as part:
        (part / name if name else part).write_text("half")
        raise error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 38 vs 37"),
        RuntimeError("basic_ios::clear: iostream error"),
        Exception("Error while serializing: I/O error: No space left (os error 28)"),
    ],
)
def test_a_full_disk_is_said_with_the_file_and_leaves_what_was_whole(tmp_path, error):
    path = tmp_path / "kept.txt"
    path.write_text("whole")
    with pytest.raises(DiskFull, match=r"no room for .*kept.txt \(.*what was whole"):
        break_off(whole_file(path), "", error)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]
    assert path.read_text() == "whole"
    with pytest.raises(DiskFull, match=r"no room for .*folder/rows.jsonl"):
        break_off(whole_folder(tmp_path / "folder"), "rows.jsonl", error)
    assert not (tmp_path / "folder").exists()


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(KeyError):
        break_off(whole_file(tmp_path / "a"), "", KeyError("x"))


def test_what_the_disk_has_no_room_for_is_not_begun(tmp_path):
    check_room(tmp_path / "new" / "folder", 1, "a byte")
    with pytest.raises(ValueError, match=r"folder: the cache takes 1,000,000,000.0 GB or more"):
        check_room(tmp_path / "new" / "folder", 1e18, "the cache")
