"""No import runs upward: the folders and files of kd_lab stand on floors, told from the ground.

Imports inside functions count too. What a command imports by its name (``cli.COMMANDS``, the
trainers of ``methods.py``) does not: these are addresses, and nothing is built on them.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = (
    "head_mask named_divergence json_text",
    "divergences vocabulary files recipe methods hub terminal house_style machine honoured_options "
    "refusals readable interrupts positions",
    "option_values",
    "loss smollm2 runs",
    "next_step model_loading",
    "data model_identity model_shapes",
    "model_check",
    "models states",
    "student teacher",
    "rollout",
    "trainers evaluation check run_inputs",
    "train report",
    "planning",
    "cli",
    "study doctor",
    "demo __main__",
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
# What stands beside the package, and what of it may be imported there: None is everything.
BESIDE = {
    "toy": {
        "divergences", "head_mask", "named_divergence", "methods", "vocabulary", "files",
        "terminal", "house_style", "loss", "data", "models", "evaluation",
    },
    "evidence": None, "book": None, "site": None, "benchmarks": None, "tests": None,
}  # fmt: skip


def modules(folder: str) -> Iterator[tuple[Path, list[str]]]:
    """Each file of a folder, and the modules that it imports, dotted."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for_types = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        imported = []
        for node in ast.walk(tree):
            if id(node) in for_types:
                continue
            if isinstance(node, ast.Import):
                imported += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                if node.module in ("kd_lab", "toy", "evidence", "book"):
                    imported += [f"{node.module}.{alias.name}" for alias in node.names]
                else:
                    imported.append(node.module)
        yield path.relative_to(ROOT), imported


def room(path: Path) -> str:
    """The folder or file of kd_lab that a path belongs to."""
    return path.parts[1].removesuffix(".py")


def test_every_file_and_folder_has_a_floor():
    rooms = {room(path) for path, _ in modules("kd_lab")} - {"__init__"}
    assert rooms == FLOOR_OF.keys()


def test_no_import_runs_upward_or_sideways():
    for path, imported in modules("kd_lab"):
        for name in imported:
            if name.startswith("kd_lab.") and room(path) not in ("__init__", name.split(".")[1]):
                below = FLOOR_OF[name.split(".")[1]]
                assert below < FLOOR_OF[room(path)], f"{path} imports {name}"


def test_the_product_imports_nothing_that_stands_beside_it():
    for path, imported in modules("kd_lab"):
        assert not {name.partition(".")[0] for name in imported} & BESIDE.keys(), path


def test_what_stands_beside_imports_what_it_may():
    for folder, allowed in BESIDE.items():
        for path, imported in modules(folder):
            rooms = {name.split(".")[1] for name in imported if name.startswith("kd_lab.")}
            assert allowed is None or rooms <= allowed, path
            if folder in ("toy", "book"):
                others = {"toy": {"book", "evidence"}, "book": set()}[folder]
                assert not {name.partition(".")[0] for name in imported} & others, path


def test_files_of_one_folder_import_each_other_in_one_direction():
    files: dict[str, set[str]] = {}
    for path, imported in modules("kd_lab"):
        files[".".join(path.with_suffix("").parts)] = {
            name for name in imported if name.startswith("kd_lab.")
        }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for below in files.get(name, ()):
                visit(below, (*above, name))
            done.add(name)

    for name in files:
        visit(name, ())


def test_what_all_tests_import_is_there_in_every_environment():
    """vLLM's has neither Jupyter nor what notebooks need: ``make test-vllm`` reads conftest too."""
    tree = ast.parse((ROOT / "tests/conftest.py").read_text(encoding="utf-8"))
    names = [
        alias.name if isinstance(node, ast.Import) else node.module
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert set(names) - sys.stdlib_module_names == {"pytest"}
