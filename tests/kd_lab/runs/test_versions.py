"""With what a run was made, said without transformers."""

import subprocess
import sys

import torch

from kd_lab.runs import versions


def test_versions_say_what_a_run_was_made_with():
    found = versions.run_versions({"seed": 42})
    assert found["libraries"]["torch"] == torch.__version__
    assert found["seed"] == 42
    assert found["processes"] == 1
    assert found["devices"]
    assert len(found["git_commit"]) == 40


def test_a_figure_drawn_anew_is_no_change_of_the_code_and_a_result_is_one(tmp_path, monkeypatch):
    def git(*words: str) -> None:
        as_someone = "-c", "user.name=A", "-c", "user.email=a@b"
        subprocess.run(["git", *as_someone, *words], cwd=tmp_path, check=True, capture_output=True)

    package = tmp_path / "kd_lab" / "runs"
    figure, result = (tmp_path / "assets" / name for name in ("a.jpg", "results/a.json"))
    for file in (package / "__init__.py", package / "versions.py", figure, result):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("as committed")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "all")
    monkeypatch.setattr(versions, "__file__", str(package / "versions.py"))
    assert versions.run_versions({})["git_dirty"] is False
    figure.write_text("drawn anew")
    assert versions.run_versions({})["git_dirty"] is False
    for changed in (result, package / "versions.py"):
        changed.write_text("changed")
        assert versions.run_versions({})["git_dirty"] is True
        changed.write_text("as committed")


def test_versions_and_the_names_of_files_need_no_transformers():
    asked = (
        "import sys, kd_lab.runs.run_files, kd_lab.runs.versions; "
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", asked]).returncode == 0
