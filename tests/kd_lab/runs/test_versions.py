"""With what a run was made, said without transformers."""

import subprocess
import sys

import torch

from kd_lab.runs.versions import run_versions


def test_versions_say_what_a_run_was_made_with():
    versions = run_versions({"seed": 42})
    assert versions["libraries"]["torch"] == torch.__version__
    assert versions["seed"] == 42
    assert versions["processes"] == 1
    assert versions["devices"]
    assert len(versions["git_commit"]) == 40


def test_versions_and_the_names_of_files_need_no_transformers():
    asked = (
        "import sys, kd_lab.runs.run_files, kd_lab.runs.versions; "
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", asked]).returncode == 0
