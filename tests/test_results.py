"""Results name the commit that made them, and the tree was clean then."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parents[1] / "assets" / "results"


def trees(found: Any) -> Iterator[tuple[str | None, bool | None]]:
    """Each commit in a result, and whether the tree had changes that the commit lacks."""
    if isinstance(found, dict):
        if "git_dirty" in found:
            yield found["git_commit"], found["git_dirty"]
        for inner in found.values():
            yield from trees(inner)
    elif isinstance(found, list):
        for inner in found:
            yield from trees(inner)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_a_result_comes_from_a_clean_tree(path):
    of_result = list(trees(json.loads(path.read_text(encoding="utf-8"))))
    assert all(commit and dirty is False for commit, dirty in of_result)


def test_the_study_names_clean_commits():
    for report in sorted(RESULTS.glob("*_study/report.md")):
        assert ", changed |" not in report.read_text(encoding="utf-8"), report
