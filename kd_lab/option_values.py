"""Values of options that every command refuses, whichever option it is.

No setting means anything at nan or infinity, an empty text would be taken for this folder, and a
text where a mapping should be is the path of a JSON file or a slip.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_origin

from kd_lab.json_text import GivenTwice, from_json
from kd_lab.recipe import Recipe, kinds, yaml_of


def finite(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """The same type of the command line, but no number is nan or infinity: none means anything."""

    def parsed(text: str) -> Any:
        value = parse(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"expected a finite number, not {text!r}")
        return value

    parsed.__name__ = parse.__name__  # as argparse names the type in its message
    return parsed


def mapping_of(text: str) -> Any:
    """``'{mu: 0.4}'`` on the command line; the path of a JSON file stays as it is."""
    import yaml

    if not text.lstrip().startswith("{"):
        _check_json(text)
        return text
    try:
        return yaml_of(text)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping: {reason}") from error


def read_mapping_of(text: str) -> Any:
    """As ``mapping_of``, and a JSON file is read, for an option that takes no path."""
    given = mapping_of(text)
    return from_json(Path(text).read_text(encoding="utf-8")) if given == text else given


def _check_json(path: str) -> None:
    """Refuse what is neither a mapping nor a file that holds one."""
    try:
        content = from_json(Path(path).read_text(encoding="utf-8"))
    except GivenTwice as error:
        raise argparse.ArgumentTypeError(f"{path}: {error}") from error
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"expected a mapping such as {{key: value}}, or a JSON file, not {path!r}"
        ) from error
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError(f"{path} holds no mapping")


def text_or_null(text: str) -> str | None:
    """A text; ``null`` is no value, as in a recipe."""
    return None if text == "null" else text


def takes_null(hint: Any) -> bool:
    """Whether an option of this type is a text, or no value."""
    return {*kinds(hint)} == {str, type(None)}


def takes_mapping(hint: Any) -> bool:
    """Whether an option of this type may be a mapping."""
    return any(kind is dict or get_origin(kind) is dict for kind in kinds(hint))


def check_mappings(recipe: Recipe, hints: dict[str, Any]) -> None:
    """Refuse text in a recipe where a mapping should be, unless it is a JSON file's path."""
    for key, (value, line) in recipe.settings.items():
        if isinstance(value, str) and takes_mapping(hints[key]):
            try:
                mapping_of(value)
            except argparse.ArgumentTypeError as error:
                raise ValueError(f"{recipe.path}:{line}: {key}: {error}") from error


def given_again(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """What to say of each option that is given several times, with different values.

    Args:
        words: of the command line, which the parser has taken.
    """
    actions = {option: action for action in parser._actions for option in action.option_strings}
    given: dict[str, list[list[str]]] = {}  # an option's name -> the words of each time
    for word in words:
        option, is_joined, text = word.partition("=")
        if option in actions:
            times = given.setdefault(actions[option].dest, [])
            times.append([option, *([text] if is_joined else [])])
        else:
            times[-1].append(word)
    notes = []
    for name, times in given.items():
        values = []
        for option, *texts in times:
            action = actions[option]  # --no_NAME takes no value
            value = action.const if action.nargs == 0 else parser._get_values(action, texts)
            values.append((value, " ".join(texts) or str(value).lower()))
        *others, last = [text for _, text in values]
        if any(value != values[-1][0] for value, _ in values):
            notes.append(
                f"--{name} is given {len(times)} times, as {', '.join(others)} and {last}: "
                f"{last}, the last, is used"
            )
    return notes


def check_choices(recipe: Recipe, parser: argparse.ArgumentParser) -> None:
    """Refuse what an option would refuse: a recipe's values do not pass through the parser."""
    for action in parser._actions:
        if action.choices is None or action.dest not in recipe.settings:
            continue
        value, line = recipe.settings[action.dest]
        if value is not None and value not in action.choices:
            raise ValueError(
                f"{recipe.path}:{line}: {action.dest} must be one of "
                f"{', '.join(map(str, action.choices))}, not {value!r}"
            )


def expand_home(arguments: Sequence[Any]) -> None:
    """Put the home folder for a ``~`` that no shell has read: in a recipe, or after ``=``."""
    for of in arguments:
        for field in dataclasses.fields(of):
            value = getattr(of, field.name)
            if isinstance(value, str) and value.startswith("~/"):
                setattr(of, field.name, str(Path(value).expanduser()))


def check_empty(arguments: Sequence[Any]) -> None:
    """Refuse an empty text, which would be taken for this folder, or for nothing at all."""
    for of in arguments:
        for field in dataclasses.fields(of):
            value = getattr(of, field.name)
            if field.default != "" and (value == "" or (isinstance(value, list) and "" in value)):
                raise ValueError(f"{field.name} is empty: give it a value, or leave it out")
