"""A notebook in an empty folder, beside both wheels, in an environment without the project."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from book.notebook_top import INSTALL
from book.wheels import build_wheels, wheel_names

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_of(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    assert set(build_wheels(ROOT, folder)) == set(folder.iterdir())
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An environment with all that is installed here, except the project."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    borrowed = environment / "borrowed" / "site-packages"  # dill looks for this name
    borrowed.mkdir(parents=True)
    for folder in (Path(path) for path in sys.path if Path(path).name == "site-packages"):
        for package in folder.iterdir():
            if "kd_lab" not in package.name and package.suffix != ".pth":
                (borrowed / package.name).symlink_to(package)
    (packages / "borrowed.pth").write_text(f"{borrowed}\n")
    return environment / "bin" / "python"


def run(python: Path, code: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["MPLBACKEND"] = "agg"
    return subprocess.run(
        [python, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_wheel_of_the_book_holds_what_notebooks_import_and_read(wheels):
    with zipfile.ZipFile(wheels / wheel_names()[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    modules = {
        path.relative_to(ROOT).as_posix()
        for folder in ("book", "evidence", "toy")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules
    for notebook in NOTEBOOKS:
        for name in re.findall(r'\basset\("([^"]+)"\)', "\n".join(code_of(notebook))):
            assert any(held.startswith(f"book/assets/{name}") for held in names), name


def test_a_missing_wheel_is_one_line_with_the_command(python, tmp_path):
    done = run(python, INSTALL, tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Put both wheels into ., or set WHEELS. Failed: ")
    wheels = " ".join(f"./{name}" for name in wheel_names())
    assert f"pip install --quiet --no-deps {wheels}" in line


@pytest.mark.slow  # pip looks at every package that is installed
def test_a_notebook_in_an_empty_folder_installs_the_project_and_runs(wheels, python, tmp_path):
    for name in wheel_names():
        (tmp_path / name).symlink_to(wheels / name)
    without = run(python, "import book", tmp_path)
    assert "No module named 'book'" in without.stderr
    (notebook,) = (path for path in NOTEBOOKS if path.stem == "01_two_divergences")
    install, *cells = code_of(notebook)
    shown = "\nimport kd_lab, book.asset_files as files\nprint(kd_lab.__file__)\n" + (
        "print(files.asset('results/two_gaussians.json'))"
    )
    done = run(python, "\n".join([install, *cells[:3]]) + shown, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "forward KL, D(p‖q): 0.651 nats"
    assert all(Path(line).is_relative_to(python.parents[1]) for line in lines[-2:])
