"""Values of options that every command refuses, whichever option it is.

No setting means anything at nan or infinity, an empty text would be taken for this folder, and a
text where a mapping should be is the path of a JSON file or a slip.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_origin

from kd_lab.recipe import Recipe, kinds


def finite(text: str) -> float:
    """A number of the command line: no setting means anything at nan or infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, not {text!r}")
    return value


finite.__name__ = "float"  # as argparse names the type in its message


def mapping_of(text: str) -> Any:
    """``'{mu: 0.4}'`` on the command line; the path of a JSON file stays as it is."""
    import yaml

    if not text.lstrip().startswith("{"):
        _check_json(text)
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping: {reason}") from error


def _check_json(path: str) -> None:
    """Refuse what is neither a mapping nor a file that holds one."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"expected a mapping such as {{key: value}}, or a JSON file, not {path!r}"
        ) from error
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError(f"{path} holds no mapping")


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


def check_empty(arguments: Sequence[Any]) -> None:
    """Refuse an empty text, which would be taken for this folder, or for nothing at all."""
    for of in arguments:
        for field in dataclasses.fields(of):
            value = getattr(of, field.name)
            if field.default != "" and (value == "" or (isinstance(value, list) and "" in value)):
                raise ValueError(f"{field.name} is empty: give it a value, or leave it out")
