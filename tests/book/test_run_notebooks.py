"""A notebook that was run has its outputs, and its cost in the file and under its title."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from book import run_notebooks
from book.notebook_top import COSTS


def notebook(path: Path, code: str) -> Path:
    cells = [nbformat.v4.new_markdown_cell("# A title\n\nText."), nbformat.v4.new_code_cell(code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.mark.slow  # two kernels
def test_cost_and_outputs_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("book.notebook_top.asset", lambda name: Path("assets", name))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Path("assets/results").mkdir(parents=True)
    path = notebook(Path("a.ipynb"), "held = bytearray(2**29)\nlen(held)")
    run_notebooks.main([str(path)])
    (cost,) = json.loads(Path("assets", COSTS).read_text())["notebooks"].values()
    assert 0.5 < cost["peak_memory_gib"] < 2
    assert cost["cpu_seconds"] > 0
    title, install, code = nbformat.read(path, as_version=4).cells
    assert install.source.startswith("WHEELS = ")
    assert not install.outputs
    assert "Running it takes 10 seconds" in title.source.split("\n")[2]
    assert [install.execution_count, code.execution_count] == [1, 2]
    assert code.outputs[0].data["text/plain"] == str(2**29)
    assert "execution" not in code.metadata

    before = notebook(path, "1 / 0").read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run_notebooks.run(path)
    assert path.read_bytes() == before
