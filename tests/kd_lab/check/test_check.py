"""``kd-lab check`` as a user runs it: one screen, exit 0 or 1, and one line for what it refuses."""

import json

import pytest

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

NUMBER = 3
"""


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
    ],
)
def test_a_mistake_is_one_line(losses, capsys, words, said):
    assert said in refusal(capsys, "check", *words)
