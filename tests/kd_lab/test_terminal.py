"""What a terminal is shown: something at once, and text that its encoding can take."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kd_lab.cli import main

PACKAGES = [Path(__file__).parents[2] / name for name in ("kd_lab", "toy")]


def test_a_command_says_what_it_waits_for_before_it_waits(tmp_path):
    words = [sys.executable, "-m", "kd_lab", "data", "--help"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, text=True, **pipes) as running:
        said = running.stderr.readline()
        still_at_it = running.poll() is None
        help_, rest = running.communicate()
    assert said == "kd-lab data: importing torch, transformers and trl\n"
    assert still_at_it
    assert help_.startswith("usage: kd-lab data")  # stdout is for what was asked
    assert "importing" not in help_ + rest


@pytest.mark.parametrize("words", [["recipe"], ["--help"], ["recipe", "tiny/token_fkl‖"]])
def test_a_terminal_that_is_not_utf_8_breaks_nothing(words, monkeypatch):
    streams = {name: io.TextIOWrapper(io.BytesIO(), "ascii") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    assert main(words) == (2 if words[-1].endswith("‖") else 0)
    told = ""
    for stream in streams.values():
        stream.flush()
        told += stream.buffer.getvalue().decode("ascii")
    assert ("\\u2016" in told) == (words != ["--help"])


@pytest.mark.parametrize("buffering", [-1, 1])
@pytest.mark.parametrize("words", [["recipe"], ["--help"], ["data", "--help"]])
def test_a_reader_that_has_ended_is_no_error(words, buffering, monkeypatch, capsys):
    """As of ``kd-lab recipe | head -1``: a shell tells 141 of any command that SIGPIPE ended."""
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w", buffering) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(words) == 141
        print("at the exit of Python", flush=True)
    assert capsys.readouterr().err == ""


def test_another_pipe_that_is_closed_is_told(monkeypatch, capsys):
    def broken(words, tell):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("kd_lab.cli._begin", broken)
    assert main(["recipe"]) == 2
    assert capsys.readouterr().err == "kd-lab: error: Broken pipe\n"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_text_files_are_utf_8_whatever_the_machine_s_encoding(package):
    bare = [
        f"{path.relative_to(package.parent)}:{node.lineno}: {ast.unparse(node)}"
        for path in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and _opens_text(node) and "utf-8" not in ast.unparse(node)
    ]
    assert not bare, "\n".join(bare)


def _opens_text(call: ast.Call) -> bool:
    """A path's read_text and write_text, and open with a mode that is not binary."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name in ("read_text", "write_text"):
        return isinstance(call.func, ast.Attribute)
    mode = call.args[0] if isinstance(call.func, ast.Attribute) and call.args else None
    return name == "open" and isinstance(mode, ast.Constant) and set(mode.value) <= set("rwax+t")
