"""The house rules for notebooks: they call the project, show what they saw, prove their numbers.

``make test`` also runs them afresh, with nbmake.
"""

import ast
import base64
import importlib
import importlib.util
import json
import re
import struct
from pathlib import Path

import pytest

from book.asset_files import asset
from book.exercises.check import CHECKS
from book.notebook_top import LINE, cost_line, install_cell

OURS = ("kd_lab", "toy", "evidence", "book")
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> Path:
    return request.param


@pytest.fixture
def cells(notebook) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def sources(cells: list[dict], kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_nothing_is_defined_in_a_notebook_but_what_its_reader_writes(cells):
    """What is worth a function is worth a place in book/, toy/ or kd_lab/, where it is tested."""
    for source in sources(cells, "code"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                body = "\n".join(ast.unparse(statement) for statement in node.body)
                assert body == "...", f"{node.name} is written already"
                assert re.search(rf'^check\("[\d.]+", {node.name}\)$', source, re.M), source
            assert not isinstance(node, ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda), (
                f"line {node.lineno} of the cell\n{source}"
            )


def test_every_notebook_begins_with_its_cost_and_the_same_install_cell(notebook, cells):
    assert "".join(cells[0]["source"]).split("\n")[2].startswith(cost_line(notebook.stem))
    found = {key: cells[1][key] for key in ("id", "source", "metadata")}
    assert found == {key: install_cell()[key] for key in found}, (
        "python -m book.notebook_top notebooks/*.ipynb writes it"
    )
    assert not cells[1]["outputs"]


def test_stored_results_are_read_by_the_one_function_that_finds_them(cells):
    code = "\n".join(sources(cells, "code"))
    assert "assets/" not in code
    assert '"..' not in code
    for name in re.findall(r'\basset\("([^"]+)"\)', code):
        assert asset(name).exists()


def test_pictures_can_be_read_on_a_phone(cells):
    """Letters of 11 points are 15 pixels at 100 dots an inch; at 400 pixels 7 are left of them."""
    for cell in cells:
        for output in cell.get("outputs", []):
            picture = output.get("data", {}).get("image/png")
            if picture:
                shown = output["metadata"].get("image/png", {}).get("width")
                width, _ = struct.unpack(">II", base64.b64decode(picture)[16:24])
                assert (shown or width) < 820, "".join(cell["source"])


def test_every_exercise_with_a_check_is_left_to_the_reader(notebook, cells):
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    asked = {
        found[1]: "".join("".join(output["text"]) for output in cell["outputs"])
        for cell in code
        for found in [re.search(r'^check\("([\d.]+)",', "".join(cell["source"]), re.M)]
        if found
    }
    of_this = [name for name in CHECKS if name.startswith(notebook.stem[:2])]
    assert asked == {name: f"{name}: not written yet\n" for name in of_this}


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
    first, *rest = sources(cells, "markdown")
    # What it cost to run stands in a file, which another test compares.
    prose = "\n".join([LINE.sub("", first), *rest]).replace("−", "-")
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
