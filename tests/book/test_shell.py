"""A command in a notebook says what it did, and a failure is not overlooked."""

import builtins

import pytest
from rich.console import Console

from book.shell import kd_lab


def test_a_command_is_shown_with_its_last_lines(capsys):
    kd_lab("recipe tiny/sft")
    told, errors = capsys.readouterr()
    first, last = told.splitlines()
    assert first == "$ kd-lab recipe tiny/sft"
    assert last.endswith("recipes/tiny/sft.yaml")
    kd_lab("recipe", lines=3)
    assert len(capsys.readouterr().out.splitlines()) == 4
    kd_lab("recipe", more="tiny/sft", lines=0)
    assert capsys.readouterr().out == "$ kd-lab recipe ...\n"
    assert not errors


def test_a_failure_is_raised_with_its_one_line():
    with pytest.raises(RuntimeError, match=r"kd-lab trian: kd-lab: error: unknown command 'trian'"):
        kd_lab("trian")


def test_rich_shows_no_widgets_and_the_notebook_is_there_again(monkeypatch, capsys):
    class ZMQInteractiveShell:  # the name by which rich knows a notebook
        pass

    def get_ipython():
        return ZMQInteractiveShell()

    seen = []
    monkeypatch.setattr(builtins, "get_ipython", get_ipython, raising=False)
    monkeypatch.setattr("book.shell.main", lambda words: seen.append(Console().is_jupyter) or 0)
    assert Console().is_jupyter
    kd_lab("recipe")
    assert seen == [False]
    monkeypatch.setattr("book.shell.main", lambda words: print("\x1b[?25h\x1b[1mdone"))
    capsys.readouterr()
    kd_lab("recipe")
    assert capsys.readouterr().out == "$ kd-lab recipe\ndone\n"
    assert builtins.get_ipython is get_ipython
