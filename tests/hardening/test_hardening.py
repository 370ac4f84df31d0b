"""A few cases of each kind; ``make hardening`` tries hundreds."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.hardening.__main__ import KINDS, cases_of
from tests.hardening.workspace import prepare

# A kind, the share of its cases, and how many that are.
SAMPLES = {"damages": (0.05, 20), "two writers": (2 / 26, 2), "kills": (1 / 35, 1)}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hardening") / "whole"
    prepare(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAMPLES)
def test_a_sample_holds(kind, workspace, tmp_path):
    share, count = SAMPLES[kind]
    shutil.copytree(workspace, tmp_path / "work" / "whole")
    cases = list(cases_of(kind, tmp_path / "work", share, seed=len(kind)))
    assert len(cases) == count
    assert {case.kind for case in cases} == {kind}
    assert not [case for case in cases if not case.held]


@pytest.mark.slow
def test_counts_are_written_and_a_failure_is_exit_code_1(tmp_path):
    """The counts of the names, beside the first edition's."""
    out = tmp_path / "counts.json"
    words = ["-m", "tests.hardening", "--only", "names", "--scale", "0.2", "--json", str(out)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(out.read_text())
    assert counts["kinds"]["names"]["held"] == counts["kinds"]["names"]["tried"] > 0
    assert counts["kinds"]["names"]["first_edition"] == {"tried": 8, "held": 2}
    assert "git_commit" in counts["versions"]


def test_every_kind_has_its_function():
    assert {*SAMPLES, "splits", "names"} <= KINDS.keys()
