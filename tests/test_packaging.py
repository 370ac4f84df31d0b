"""What the project's own files say about what to install agrees with itself."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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


def constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [re.split("==", line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pins}


def test_conda_environment_has_the_same_packages():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert f"python{PROJECT['requires-python']}" in environment["dependencies"]
    (pip,) = (part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    listed = {str(Requirement(line)) for line in pip if not line.startswith("--")}
    assert listed == {str(requirement) for requirement in requirements("dev")}


def test_torch_is_pinned_first_and_to_the_tested_release():
    first = next(
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert first == "torch==2.13.0"


@pytest.mark.parametrize("requirement", requirements("dev"), ids=lambda r: r.name)
def test_every_requirement_has_a_tested_version_that_satisfies_it(requirement):
    assert requirement.specifier.contains(constraints()[canonicalize_name(requirement.name)])


def test_extras():
    assert {"notebooks", "llm", "deepspeed", "vllm", "dev"} <= set(PROJECT["optional-dependencies"])
