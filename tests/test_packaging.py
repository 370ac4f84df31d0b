"""What the project's own files say about what to install agrees with itself, and with the wheel."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from uv import find_uv_bin

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def requirements(*extras: str) -> list[Requirement]:
    """The core's requirements and those of the extras, extras of extras resolved, in order."""
    found = {line: Requirement(line) for line in PROJECT["dependencies"]}
    for extra in extras:
        for line in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if requirement.name == PROJECT["name"]:  # its extras are a set: in an order of our own
                inner = requirements(*sorted(requirement.extras))
                found |= {str(one): one for one in inner}
            else:
                found[str(requirement)] = requirement
    return sorted({str(one): one for one in found.values()}.values(), key=lambda one: one.name)


def pins() -> dict[str, list[Requirement]]:
    """Of each package of constraints.txt its lines, one for each marker."""
    found: dict[str, list[Requirement]] = {}
    for line in CONSTRAINTS.splitlines():
        if not line.startswith("#"):
            pin = Requirement(line)
            found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def version(pin: Requirement) -> str:
    (exactly,) = pin.specifier
    assert exactly.operator == "=="
    return exactly.version


def check_installs():
    """The module .ci/check_installs.py."""
    spec = importlib.util.spec_from_file_location(
        "check_installs", ROOT / ".ci" / "check_installs.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_conda_environment_installs_what_the_tests_need():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    assert pip == ["--constraint constraints.txt", "--editable .[dev]"]
    (python,) = (part for part in environment["dependencies"] if str(part).startswith("python"))
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert SpecifierSet(python.removeprefix("python")) == allowed


def test_constraints_are_what_make_lock_writes():
    assert "make lock" in CONSTRAINTS.partition("==")[0]
    assert "://" not in CONSTRAINTS  # no index, no local wheel
    assert [version(pin) for pin in pins()["torch"]] == ["2.13.0"]


@pytest.mark.parametrize("requirement", requirements("dev"), ids=lambda r: r.name)
def test_every_requirement_has_tested_versions_that_satisfy_it(requirement):
    for pin in pins()[canonicalize_name(requirement.name)]:
        assert requirement.specifier.contains(version(pin))


def test_every_extra_is_resolved_on_every_python():
    checked = check_installs()
    installs = (*checked.INSTALLS, checked.VLLM)
    resolved = {str(one) for install in installs for one in requirements(*install.extras)}
    for extra in PROJECT["optional-dependencies"]:
        assert {str(one) for one in requirements(extra)} <= resolved, extra
    allowed = SpecifierSet(PROJECT["requires-python"])
    minors = {re.match(r"3\.\d+", python)[0] for python in checked.PYTHONS}
    assert minors == {f"3.{minor}" for minor in range(40) if f"3.{minor}" in allowed}
    assert f">={checked.PYTHONS[0].removesuffix('.0')}" in PROJECT["requires-python"]


def test_make_refuses_the_pythons_that_pip_would():
    low, high = re.search(
        r"not \((\d+, \d+)\) <= sys.version_info < \((\d+, \d+)\)", (ROOT / "Makefile").read_text()
    ).groups()
    asked = SpecifierSet(f">={low.replace(', ', '.')},<{high.replace(', ', '.')}")
    assert asked == SpecifierSet(PROJECT["requires-python"])


def test_make_installs_into_its_environment_whatever_pip_is_set_to(tmp_path):
    (tmp_path / "pip.conf").write_text("[global]\nuser = true\n")
    users = {"PIP_USER": "1", "PIP_TARGET": str(tmp_path / "elsewhere"), "PIP_PREFIX": "/nowhere"}
    users["PIP_CONFIG_FILE"] = str(tmp_path / "pip.conf")
    shown = subprocess.run(
        ["make", "-f", "Makefile", "-f", "-", f"VENV={sys.prefix}", "what_pip_takes"],
        cwd=ROOT,
        env=os.environ | users,
        input="what_pip_takes:\n\t@$(PIP) --verbose config list\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert ":env:.user='0'" in shown
    assert "elsewhere" not in shown
    assert "/nowhere" not in shown


@pytest.mark.slow  # a model is trained and measured in the new environment
def test_the_wheel_is_whole_without_the_checkout(tmp_path):
    uv = [find_uv_bin(), "--quiet", "--offline", "--no-config"]
    build = [*uv, "build", "--wheel", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*build, "--out-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = (path for path in (ROOT / "kd_lab").rglob("*") if path.is_file())
    files = {str(path.relative_to(ROOT)) for path in package if "__pycache__" not in path.parts}
    assert names == files

    environment = tmp_path / "environment"
    subprocess.run([*uv, "venv", "--python", sys.executable, str(environment)], check=True)
    python = environment / "bin" / "python"
    install = [*uv, "pip", "install", "--no-deps", "--python", str(python), str(wheel)]
    subprocess.run(install, check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    # The dependencies are those of this environment; what its own .pth files name is not followed.
    borrowed = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")

    empty = tmp_path / "empty"
    empty.mkdir()
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    where = [str(python), "-c", "import kd_lab; print(kd_lab.__file__)"]
    found = subprocess.run(where, cwd=empty, env=alone, capture_output=True, text=True, check=True)
    assert Path(found.stdout).is_relative_to(environment)
    # All commands in one process, of which the imports take most.
    commands = [
        "train --config tiny/teacher --max_steps 2 --num_conversations 100 --output_dir run",
        "evaluate --model_name_or_path run --num_test_conversations 4",
        "report run",
    ]
    script = f"from kd_lab.cli import main\nfor c in {commands}: assert main(c.split()) == 0, c"
    run = [str(python), "-c", script]
    done = subprocess.run(run, cwd=empty, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "precision" in (empty / "report" / "report.md").read_text()
