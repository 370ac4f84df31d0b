"""The house rules for notebooks: they call the project, show what they saw, prove their numbers.

``make test`` also runs them afresh, with nbmake.
"""

import ast
import importlib
import importlib.util
import json
import re
from pathlib import Path

import pytest

OURS = ("kd_lab", "toy", "evidence", "book")
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def cells(request) -> list[dict]:
    return json.loads(request.param.read_text(encoding="utf-8"))["cells"]


def sources(cells: list[dict], kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_nothing_is_defined_in_a_notebook(cells):
    """What is worth a function is worth a place in book/, toy/ or kd_lab/, where it is tested."""
    for source in sources(cells, "code"):
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(
                node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
            ), f"line {node.lineno} of the cell\n{source}"


def test_committed_as_run_from_top_to_bottom(cells):
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_every_slider_has_a_still_picture_before_it(cells):
    """For those who only read."""
    previous: list[dict] = []
    for cell in cells:
        if "explore(" in "".join(cell["source"]) and cell["cell_type"] == "code":
            assert any("image/png" in output.get("data", {}) for output in previous)
        previous = cell.get("outputs", [])


def test_every_decimal_number_of_the_prose_stands_in_a_cell_that_asserts(cells):
    asserted = "\n".join(code for code in sources(cells, "code") if "assert" in code)
    prose = "\n".join(sources(cells, "markdown")).replace("−", "-")
    # Formulas, code, links and paper numbers define or name things; they claim no result.
    prose = re.sub(r"\$\$.*?\$\$|\$[^$\n]*\$|`[^`\n]*`|\]\([^)]*\)|<[^>]*>", " ", prose, flags=re.S)
    prose = re.sub(r"\b\d{4}\.\d{5}\b", " ", prose)
    numbers = set(re.findall(r"\d+\.\d+%?", prose))
    assert numbers
    assert not sorted(number for number in numbers if number not in asserted)


def test_no_machine_shows_through(cells):
    text = json.dumps(cells)
    assert not re.findall(r"/(?:work|home|root|tmp|Users)/", text)


def test_what_a_notebook_imports_of_the_project_is_there(cells):
    for source in sources(cells, "code"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
                module = importlib.import_module(node.module or "")
                for name in node.names:
                    found = hasattr(module, name.name) or importlib.util.find_spec(
                        f"{node.module}.{name.name}"
                    )
                    assert found, f"{node.module} has no {name.name}"
