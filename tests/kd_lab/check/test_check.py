"""``kd-lab check`` as a user runs it: one screen, exit 0 or 1, and one line for what it refuses."""

import json

import pytest

from kd_lab import divergences as D
from kd_lab.check import check
from kd_lab.cli import main
from tests.helpers.refusal import refusal

LOSSES = """
import torch
import torch.nn.functional as F

def forward_kl(student_logits, teacher_logits, labels):
    mask = labels != -100
    each = F.kl_div(student_logits.log_softmax(-1), teacher_logits.softmax(-1), reduction="none")
    return (each.sum(-1) * mask).sum() / mask.sum()

def k3(student_logp, teacher_logp, mask):
    ratio = teacher_logp - student_logp
    return ((ratio.exp() - 1 - ratio) * mask).sum() / mask.sum()

def many(student_logits, teacher_logits, labels):
    return student_logits.sum(-1)

def broken(student_logits, teacher_logits, labels):
    return {}["loss"]

def divided(student_logits, teacher_logits, labels):
    return student_logits.sum() * (1 / 0)

def on_a_gpu(student_logits, teacher_logits, labels):
    assert student_logits.is_cuda

def leaves(student_logits, teacher_logits, labels):
    raise SystemExit(0)

def exchanged(teacher_logits, student_logits, labels):
    return forward_kl(student_logits, teacher_logits, labels)

NUMBER = 3
"""
# Files that cannot be imported, and what is said of each.
BROKEN = {
    "syntax.py": ("x = 1\ndef f(:", "syntax.py:2: SyntaxError: "),
    "name.py": ("x = nothing", "name.py:1: NameError: name 'nothing' is not defined"),
    "needs.py": ("\nimport no_such_package", "needs.py:2: ModuleNotFoundError: No module named"),
    "leaves.py": ("raise SystemExit(0)", "leaves.py:1: it calls sys.exit, and a check must"),
    "empty.py": ("assert False", "empty.py:1: AssertionError"),
}


@pytest.fixture
def losses(tmp_path, monkeypatch) -> str:
    (tmp_path / "losses.py").write_text(LOSSES)
    monkeypatch.chdir(tmp_path)
    return "losses.py"


def test_what_is_expected_exits_0_and_is_written(losses, capsys, tmp_path):
    words = [f"{losses}:forward_kl", "--expect", "forward_kl", "--json", "found.json"]
    words += ["--picture", "found.png"]
    assert main(["check", *words]) == 0
    screen = capsys.readouterr().out
    assert "VERDICT: it optimises forward_kl" in screen
    assert screen.endswith("it is forward_kl\n")
    assert len(screen.splitlines()) < 40
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["parts"] == [
        {"name": "forward_kl", "settings": {}, "coefficient": pytest.approx(1)}
    ]
    assert [end["rests"] for end in found["ends"]] == [True, True]
    assert max(end["forward_kl"] for end in found["ends"]) < 1e-3


def test_what_is_not_expected_exits_1(losses, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["check", f"{losses}:k3", "--form", "tokens", "--expect", "reverse_kl"])
    assert stopped.value.code == 1
    assert "it is not reverse_kl: it optimises forward_kl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["losses.py"], "function is MODULE:FUNCTION or FILE.py:FUNCTION, not 'losses.py'"),
        (["none.py:loss"], "there is no file none.py"),
        (["no_such_module:loss"], "no_such_module:loss: it cannot be imported"),
        (["losses.py:forward_lk"], "has no 'forward_lk'; did you mean 'forward_kl'?"),
        (["losses.py:NUMBER"], "losses.py:NUMBER: it is no function"),
        (["losses.py:k3", "--form", "token"], "form must be one of logits, topk, tokens"),
        (["losses.py:many"], "a loss of form logits returns one number, not shape"),
        (["losses.py:broken"], "losses.py:broken fails as a loss of form logits"),
        (["losses.py:k3", "--form", "topk"], "fails as a loss of form topk"),
        (["losses.py:k3", "--prefixes", "me"], "prefixes must be one of dataset, teacher, student"),
        (["losses.py:forward_kl", "--seed", "-7"], "seed must lie in [0, 2^32), not -7"),
        (["losses.py:forward_kl", "--dtype", "int8"], "dtype must be float32 or float64"),
        (["losses.py:forward_kl", "--expect", "forward"], "expect must be one of forward_kl"),
        (
            ["losses.py:divided"],
            "labels [B, T]): losses.py:21: ZeroDivisionError: division by zero",
        ),
        (["losses.py:on_a_gpu"], "labels [B, T]): losses.py:24: AssertionError"),
        (["losses.py:leaves", "--expect", "forward_kl"], "losses.py:27: it calls sys.exit"),
        (["losses.py:exchanged"], "its first parameter teacher_logits and its second student_log"),
        (["losses.py:forward_kl", "--expect_settings", "{T: 2}"], "give --expect too"),
        (
            ["none.py:loss", "--expect", "forward_kl", "--expect_settings", "{beta: 3}"],
            "expect_settings: forward_kl has no setting 'beta'",
        ),
        (
            ["none.py:loss", "--expect", "jensen_shannon", "--expect_settings", "{beta: 3}"],
            "expect_settings: beta must be a number in [0, 1], not 3",
        ),
        (
            ["none.py:loss", "--expect", "cross_entropy", "--expect_settings", "{T: two}"],
            "expect_settings: T must be a number above 0, not 'two'",
        ),
        (["losses.py:forward_kl", "--json", "./losses.py"], "json: ./losses.py holds the function"),
        (
            ["losses.py:forward_kl", "--picture", "losses.py"],
            "picture: losses.py holds the function",
        ),
        (
            ["losses.py:forward_kl", "--json", "a.png", "--picture", "./a.png"],
            "json and picture are both ./a.png: name two files",
        ),
    ],
)
def test_a_mistake_is_one_line(losses, capsys, words, said):
    assert said in refusal(capsys, "check", *words)


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_imported_is_named_with_its_line(losses, tmp_path, capsys, name):
    text, said = BROKEN[name]
    (tmp_path / name).write_text(text)
    line = refusal(capsys, "check", f"{name}:f", "--expect", "reverse_kl")
    assert line.startswith(f"function {name}:f: it cannot be imported: {said}")


def test_a_fault_of_our_own_is_not_the_users(losses, monkeypatch, capsys):
    def examine(*_):
        raise ZeroDivisionError("ours")

    examine.__code__ = examine.__code__.replace(co_filename=check.__file__)
    monkeypatch.setattr(check, "examine", examine)
    assert main(["check", f"{losses}:forward_kl"]) == 1
    assert "a fault of KD Lab: ZeroDivisionError: ours" in capsys.readouterr().err


def test_a_file_may_hold_dataclasses_and_settings_may_stand_in_a_file(losses, tmp_path, capsys):
    future = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    scaled = "@dataclass\nclass Scale:\n    by: float\n\ndef scaled(s, t, labels, by):\n"
    (tmp_path / "json.py").write_text(
        f"{LOSSES}\n{scaled}    return Scale(by).by * forward_kl(s, t, labels)\n".join((future, ""))
    )
    (tmp_path / "settings.json").write_text('{"by": 3}')
    words = ["json.py:scaled", "--settings", "settings.json", "--expect", "forward_kl"]
    assert main(["check", *words]) == 0
    assert "3" in capsys.readouterr().out


def test_a_setting_that_was_not_found_is_not_the_expected_one():
    def adaptive(student, teacher, labels):
        each = D.adaptive_kl(teacher.log_softmax(-1), student.log_softmax(-1))
        return each[labels != -100].mean()

    verdict = check.check_loss(adaptive)
    assert not verdict.objections("adaptive_kl", mu=0.5, crossing="head")
    assert "it is not adaptive_kl (crossing tail)" in " ".join(
        verdict.objections("adaptive_kl", crossing="tail")
    )
