"""The first line and the first cell of a notebook, and the command that writes them."""

import json
import shutil
from pathlib import Path

import pytest

from book import notebook_top
from book.notebook_top import cost_line, install_cell, main, with_install_cell, with_line

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_two_divergences.ipynb"
TITLE = {"cell_type": "markdown", "source": ["# 1. Two\n", "\n", "Text."]}
CODE = {"cell_type": "code", "id": "b", "source": ["1"], "outputs": [], "execution_count": 1}


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.0, "10 seconds"), (81.2, "90 seconds"), (91, "2 minutes")]
)
def test_the_line_never_says_less_than_was_measured(monkeypatch, tmp_path, seconds, words):
    costs = {"a": {"cpu_seconds": seconds, "peak_memory_gib": 0.42}}
    (tmp_path / "costs.json").write_text(json.dumps({"notebooks": costs}))
    monkeypatch.setattr(notebook_top, "asset", lambda name: tmp_path / "costs.json")
    line = f"*Running it takes {words} of one CPU core, and 0.5 GiB of memory.*"
    assert cost_line("a") == line
    with pytest.raises(ValueError, match=r"has no b: `python -m book\.run_notebooks notebooks/b"):
        cost_line("b")


def test_the_line_takes_the_place_of_an_old_one_and_a_link_behind_it_stays():
    (once, _) = with_line([TITLE, CODE], "*Running it takes 10 seconds.*", "[Open in Colab](a)")
    assert "".join(once["source"]).startswith("# 1. Two\n\n*Running it takes 10 seconds.* [Open")
    (again, _) = with_line([once, CODE], "*Running it takes 20 seconds.*")
    assert "".join(again["source"]) == (
        "# 1. Two\n\n*Running it takes 20 seconds.* [Open in Colab](a)\n\nText."
    )


def test_the_cell_is_put_once():
    once = with_install_cell([TITLE, CODE], ".")
    assert [cell.get("id") for cell in once] == [None, "install", "b"]
    again = with_install_cell(once, "https://host.invalid/wheels/")
    assert len(again) == 3
    assert again[1]["source"][0].startswith('WHEELS = "https://host.invalid/wheels/"  #')
    assert again[1]["source"][1:] == once[1]["source"][1:] == install_cell()["source"][1:]


def test_the_command_writes_addresses_once_there_are_some(tmp_path):
    copy = shutil.copy(NOTEBOOK, tmp_path)
    main([str(copy)])
    assert Path(copy).read_text(encoding="utf-8") == NOTEBOOK.read_text(encoding="utf-8")
    for _ in range(2):
        main([str(copy), "--site", "https://host.invalid/kd", "--repository", "someone/kd"])
    title, install, *_ = json.loads(Path(copy).read_text(encoding="utf-8"))["cells"]
    colab = "https://colab.research.google.com/github/someone/kd/blob/main/notebooks/"
    assert "".join(title["source"]).count(f"[Open in Colab]({colab}{NOTEBOOK.name})") == 1
    assert '"https://host.invalid/kd/_static/wheels/"' in install["source"][0]
