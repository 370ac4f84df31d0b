"""The next step: the command that writes a missing folder, and the folders that it needs itself.

    written_by("runs/tiny/start")    # "; first run `kd-lab train --config tiny/start`"
    written_by("runs/tiny/answers")  # "; first run `kd-lab train ...`, then `kd-lab generate ...`"
    written_by("runs/mine")          # "": no recipe writes it

All of it comes from the recipes: one recipe writes the folder that another names. SmolLM2's folder
has its own command.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from kd_lab import smollm2
from kd_lab.recipe import RECIPES, read_recipe, recipes

WRITES = "output_dir"  # the key of every command that names the folder it writes
OF_AN_EVALUATION = (
    "teacher_model_name_or_path", "teacher_revision", "dataset", "test_dataset",
    "num_test_conversations",
)  # fmt: skip
CHECKOUT = Path(__file__).parents[1]  # of the project, if the package was not installed elsewhere
MODEL_FILES = ("config.json", "adapter_config.json")


class Step(NamedTuple):
    """A command that writes a folder: a recipe's, or the one that fetches SmolLM2."""

    name: str  # tiny/start
    kind: str  # train, generate, cache, data; fetch
    command: str  # kd-lab train --config tiny/start
    folder: str  # runs/tiny/start
    settings: dict[str, Any]
    env: dict[str, str]

    @property
    def is_done(self) -> bool:
        """Whether the folder exists, and holds a model if the command writes one."""
        folder = Path(self.folder)
        if self.kind in ("train", "fetch"):
            return any((folder / name).is_file() for name in MODEL_FILES)
        return folder.is_dir()


def written_by(path: str | Path) -> str:
    """The end of a message that a path is missing: the commands to run first, in order.

    Returns:
        "; first run `...`, then `...`", or "" where no recipe writes this path.
    """
    chain = commands_for(path)
    if not chain:
        return ""
    commands = ", then ".join(f"`{step.command}`" for step in chain)
    return f"; first run {commands}{_make_does_it(chain)}"


def check_model_path(key: str, name: str | None) -> None:
    """Refuse a missing local model before the hub is asked for it.

    A name counts as a folder if it is one, or if it cannot be ``owner/name`` on the hub. It also
    does if its first part is a folder here (``runs/tiny/teacher``, ``models/SmolLM2``).

    Args:
        key: of the recipe or command line that gives it.
        name: the model, or None.
    Raises:
        ValueError: names the key, the folder, and the recipe's command that writes it, if there is
            one. Or it is a file, or a folder without a model.
    """
    if name is None:
        return
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not any((folder / file).is_file() for file in MODEL_FILES):
            advice = written_by(name)
            if any(folder.glob("checkpoint-*")):
                advice = f"; a run that was stopped has its models in checkpoint-N{advice}"
            raise ValueError(f"{key}: {name} holds no model (no config.json){advice}")
        return
    if folder.is_file():
        raise ValueError(f"{key}: {name} is a file: give the folder of a model")
    parts, advice = name.split("/"), written_by(name)
    if advice or len(parts) > 2 or name[:1] in (".", "/", "~") or parts[0] in ("runs", "models"):
        advice = advice or "; train, copy or fetch that model first"
        raise ValueError(f"{key}: there is no folder {name}{advice}")


def check_folder(key: str, folder: str | None, command: str) -> None:
    """Refuse a missing folder.

    Args:
        key: of the recipe or command line that gives it.
        folder: the folder, or None.
        command: the kd-lab command that writes such folders.
    Raises:
        ValueError: names the key, the folder and the command that writes it.
    """
    if folder is not None and Path(folder).is_file():
        raise ValueError(f"{key}: {folder} is a file: give a folder that `kd-lab {command}` wrote")
    if folder is not None and not Path(folder).is_dir():
        advice = written_by(folder) or f"; write it with `kd-lab {command}`"
        raise ValueError(f"{key}: there is no folder {folder}{advice}")


def evaluation_of(folder: Path, config: Mapping[str, Any]) -> str:
    """The command that evaluates a run, on the test conversations of its own data.

    Args:
        config: the run's settings; empty for a model that was not trained here.
    """
    words = ["kd-lab", "evaluate", "--model_name_or_path", str(folder)]
    for key in OF_AN_EVALUATION:
        if (value := config.get(key)) is not None:
            words += [f"--{key}", str(value)]
    return shlex.join(words)


def commands_for(path: str | Path) -> list[Step]:
    """The commands that write a path, in order; empty if no recipe writes it.

    Finished steps are left out, except the step that writes the path itself.
    """
    wanted = absolute(path)
    for step in steps():
        folder = absolute(step.folder)
        if wanted == folder or (folder in wanted.parents and not step.is_done):
            return [*_undone(needs(step.settings)), step]
    return []


def needs(settings: dict[str, Any]) -> list[Step]:
    """The steps whose folders a recipe names, without itself."""
    named = {
        absolute(value)
        for key, value in settings.items()
        if isinstance(value, str) and key != WRITES
    }
    return [step for step in steps() if absolute(step.folder) in named]


def hub_models(settings: dict[str, Any]) -> list[str]:
    """The models of the hub that a recipe names."""
    written = {step.folder for step in needs(settings)}
    named = [value for key, value in settings.items() if key.endswith("model_name_or_path")]
    return [name for name in dict.fromkeys(named) if name not in written]


@cache
def steps() -> tuple[Step, ...]:
    """All steps that write a folder: the fetching of SmolLM2, and the recipes of the package."""
    fetch = "python -m kd_lab.smollm2"
    found = [Step("SmolLM2", "fetch", fetch, str(smollm2.FOLDER), {}, {})]
    for name in recipes():
        recipe = read_recipe(RECIPES / f"{name}.yaml")
        settings = {key: setting.value for key, setting in recipe.settings.items()}
        if (kind := command_of(recipe.path, name)) and WRITES in settings:
            command = f"kd-lab {kind} --config {name}"
            found.append(Step(name, kind, command, settings[WRITES], settings, recipe.env))
    return tuple(found)


def command_of(path: Path, name: str) -> str | None:
    """The command that a recipe is for, from its own comment; None for accelerate's."""
    text = path.read_text(encoding="utf-8")
    found = re.search(rf"(?:kd-lab|-m kd_lab) (\w+) --config {re.escape(name)}(?!\S)", text)
    return found and found[1]


def _undone(first: Sequence[Step]) -> list[Step]:
    """The unfinished ones of these steps and of all that they need, each once, needs first."""
    chain: list[Step] = []
    for step in first:
        if not step.is_done:
            chain += [s for s in (*_undone(needs(step.settings)), step) if s not in chain]
    return chain


def _make_does_it(chain: Sequence[Step]) -> str:
    """The Makefile's target that does the same, in a folder with that Makefile."""
    makefile = CHECKOUT / "Makefile"
    if not makefile.is_file() or Path.cwd() != CHECKOUT:
        return ""
    trained = [step for step in steps() if step.kind == "train"]
    towards_students = [*trained, *(step for of in trained for step in needs(of.settings))]
    for target, summary in re.findall(r"^([\w-]+):.*## (.*)$", makefile.read_text("utf-8"), re.M):
        into = re.search(r"\binto (\S+)/", summary)
        if into and all(
            Path(into[1]) in Path(step.folder).parents and step in towards_students
            for step in chain
        ):
            return f" (`make {target}` does it: {summary})"
    return ""


def absolute(path: str | Path) -> Path:
    """The same path for all spellings of a file or folder, as ``d``, ``./d`` and ``d/``."""
    return Path(os.path.realpath(Path(path).expanduser()))  # resolve() raises on a loop of links
