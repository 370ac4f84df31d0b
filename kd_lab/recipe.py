"""Recipes: YAML files of a few lines, found by name inside the package or by path, and checked.

    path = find_recipe("tiny/token_fkl")            # .../kd_lab/recipes/tiny/token_fkl.yaml
    recipe = read_recipe(path)                      # its settings, each with the line it stands on
    values = check_recipe(recipe, types)            # ready for the argument dataclasses

A recipe is whole: it extends no other. Its first comment says what it does, and the key ``env``
holds environment variables, as in TRL's own configuration files.
"""

import difflib
import json
import re
import sys
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from inspect import isclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

RECIPES = Path(__file__).parent / "recipes"


class Setting(NamedTuple):
    """One key's value, and its line in the file."""

    value: Any
    line: int


class Recipe(NamedTuple):
    """A recipe as read, not yet checked against a command."""

    path: Path
    settings: dict[str, Setting]
    env: dict[str, str]


def recipes() -> dict[str, str]:
    """The names of all recipes of the package, and the first line of each."""
    return {
        path.relative_to(RECIPES).with_suffix("").as_posix(): _first_comment(path)
        for path in sorted(RECIPES.rglob("*.yaml"))
    }


def find_recipe(name: str) -> Path:
    """The file of a recipe: a name inside the package (``tiny/token_fkl``), or a path.

    Raises:
        ValueError: neither; names the nearest recipe.
    """
    inside = RECIPES / f"{name}.yaml"
    if inside.is_file():
        return inside
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml"):
        raise ValueError(f"no such file: {name}")
    raise ValueError(
        f"no recipe {name!r}{did_you_mean(name, recipes())}; "
        "`kd-lab recipe` lists them, and a file of your own is given by its path"
    )


def read_recipe(path: Path) -> Recipe:
    """Read a recipe without checking its keys.

    Numbers may be written as 1e-4, which YAML 1.1 takes for text.

    Raises:
        ValueError: it is no YAML mapping, or has a key twice; names the line.
    """
    settings: dict[str, Setting] = {}
    for key, setting in _entries(path):
        if key in settings:
            first = settings[key].line
            raise ValueError(
                f"{path}:{setting.line}: {key!r} is given twice, first in line {first}"
            )
        settings[key] = setting
    env = settings.pop("env", Setting({}, 0))
    if not isinstance(env.value, dict):
        raise ValueError(f"{path}:{env.line}: env must be a mapping of environment variables")
    for name, value in env.value.items():
        if not isinstance(value, str | int | float):
            given = json.dumps(value, default=str, ensure_ascii=False)
            raise ValueError(
                f"{path}:{env.line}: env: {name} must be text, a number, true or false, not {given}"
            )
    variables = {str(name): str(value) for name, value in env.value.items()}
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"{path}:{env.line}: env: {name!r} is no environment variable")
    return Recipe(path, settings, variables)


def _entries(path: Path) -> list[tuple[str, Setting]]:
    """The keys and values of a YAML file in order, also those that are there twice."""
    import yaml

    text = _text_of(path)
    try:
        loader = _loader()(text)
        root = loader.get_single_node()
        if isinstance(root, yaml.MappingNode):
            return [
                (
                    str(loader.construct_object(key, deep=True)),
                    Setting(loader.construct_object(value, deep=True), key.start_mark.line + 1),
                )
                for key, value in root.value
            ]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: no such date
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    raise ValueError(f"{path}: a recipe is a YAML mapping, lines of `key: value`")


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}:{line}: not text in UTF-8") from error


def check_recipe(
    recipe: Recipe, hints: Mapping[str, Any], renamed: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The values of a recipe; ``hints`` (key to type) must know and allow all of them.

    Args:
        renamed: keys of earlier versions, and their present names.
    Raises:
        ValueError: an unknown key (names the nearest, or its new name), or a value of another type;
            names the line.
    """
    for key, (value, line) in recipe.settings.items():
        if renamed is not None and key in renamed:
            raise ValueError(f"{recipe.path}:{line}: {key} is now {renamed[key]}")
        if key not in hints:
            raise ValueError(f"{recipe.path}:{line}: unknown key {key!r}{did_you_mean(key, hints)}")
        if isinstance(value, str) and "\0" in value:  # no path and no name has it
            raise ValueError(f"{recipe.path}:{line}: {key}: {value!r} holds a NUL")
        if not _fits(value, hints[key]):
            raise ValueError(f"{recipe.path}:{line}: {key}: {_expected(value, hints[key])}")
    return {key: value for key, (value, _) in recipe.settings.items()}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'divergence'?``, or nothing if no known word is near."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def kinds(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type. An Enum beside str stands for the same words."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if any(isclass(member) and issubclass(member, Enum) for member in members):
        members = tuple(member for member in members if member is not str)
    return members


def _fits(value: Any, hint: Any) -> bool:
    return any(_fits_kind(value, kind) for kind in kinds(hint))


def _fits_kind(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if (words := _words(kind)) is not None:
        return value in words
    origin = get_origin(kind) or kind
    if origin is list:
        return isinstance(value, list) and all(
            _fits(item, member) for member in get_args(kind) for item in value
        )
    if isinstance(value, bool) or origin is bool:
        return isinstance(value, bool) and origin is bool
    if origin is float:
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max
    return isinstance(value, origin)


def _words(kind: Any) -> list[Any] | None:
    """The words that a Literal or an Enum allows; None for any other type."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if isclass(kind) and issubclass(kind, Enum):
        return [member.value for member in kind]
    return None


NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
    type(None): "null",
}


def _expected(value: Any, hint: Any) -> str:
    """``expected a number or null, not "two"``, with a hint to correct it."""
    words = [word for kind in kinds(hint) for word in _words(kind) or ()]
    allowed = [
        NAMES.get(get_origin(kind) or kind, str(kind))
        for kind in kinds(hint)
        if _words(kind) is None
    ]
    if words:
        allowed.insert(0, "one of " + ", ".join(map(str, words)))
    advice = ""
    if isinstance(value, bool):
        advice = " (YAML reads a bare yes, no, on, off as true or false: put the word in quotes)"
    elif isinstance(value, str):
        advice = did_you_mean(value, map(str, words))
    given = json.dumps(value, default=str, ensure_ascii=False)
    return f"expected {' or '.join(allowed)}, not {given}{advice}"


def yaml_of(text: str) -> Any:
    """The value of YAML as a recipe has it.

    Raises:
        yaml.YAMLError: it is none.
    """
    import yaml

    return yaml.load(text, _loader())  # it constructs what SafeLoader does


def _loader() -> Any:
    import yaml

    # libyaml's, where PyYAML was built with it, is ten times as fast.
    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """YAML 1.1, but 1e-4 is a number, a key stands once, and 010 and 1:30 are refused."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for number, key in enumerate(keys):
                if key.value in (earlier.value for earlier in keys[:number]):
                    raise _refused(f"{key.value!r} is given twice", key)
            return super().construct_mapping(node, deep)

        def construct_decimal(self, node: Any) -> Any:
            is_int = node.tag.endswith(":int")
            value = self.construct_yaml_int(node) if is_int else self.construct_yaml_float(node)
            if ":" in node.value or re.fullmatch(r"[-+]?0[0-7_]+", node.value):
                raise _refused(f"YAML reads {node.value} as {value}: write that number", node)
            return value

    def _refused(problem: str, node: Any) -> Exception:
        return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
        list("-+0123456789"),
    )
    for kind in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", Loader.construct_decimal)
    return Loader


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""
