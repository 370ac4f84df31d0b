"""A few cases of each kind; ``make hardening`` tries hundreds."""

import json
import shutil
import sys

import pytest

from tests.hardening import __main__ as command
from tests.hardening.__main__ import KINDS, cases_of
from tests.hardening.cases import Case
from tests.hardening.workspace import prepare

# A kind, and how many of its cases are tried here.
SAMPLES = {
    "damages": 20, "two writers": 2, "kills": 1, "Ctrl-C": 1, "full disks": 2,
    "read-only folders": 4, "command line": 40,
}  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hardening") / "whole"
    prepare(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAMPLES)
def test_a_sample_holds(kind, workspace, tmp_path):
    count = SAMPLES[kind]
    shutil.copytree(workspace, tmp_path / "work" / "whole")
    cases = list(cases_of(kind, tmp_path / "work", count / KINDS[kind].count, seed=len(kind)))
    assert len(cases) == count
    assert {case.kind for case in cases} == {kind}
    assert not [case for case in cases if not case.held]


@pytest.mark.slow
def test_counts_are_written_and_a_failure_is_exit_code_1(tmp_path, monkeypatch):
    """The counts of the names, beside the first edition's."""
    out = tmp_path / "counts.json"
    words = ["hardening", "--only", "names", "--scale", "0.2", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    assert command.main() == 0
    counts = json.loads(out.read_text())
    assert counts["kinds"]["names"]["held"] == counts["kinds"]["names"]["tried"] > 0
    assert counts["kinds"]["names"]["first_edition"] == {"tried": 8, "held": 2}
    assert {"git_commit", "seed"} <= counts["kinds"]["names"]["versions"].keys()
    command.write_counts(out, "damages", {"tried": 1})
    assert [*json.loads(out.read_text())["kinds"]] == ["damages", "names"]

    silent = Case("names", "a folder", "silent", "nothing was said")
    monkeypatch.setattr(command, "cases_of", lambda *_: iter([silent]))
    assert command.main() == 1
    assert json.loads(out.read_text())["kinds"]["names"]["failures"] == {"silent": 1}


def test_every_kind_has_its_function():
    assert {*SAMPLES, "splits", "names"} <= KINDS.keys()
