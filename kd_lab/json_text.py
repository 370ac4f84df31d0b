"""JSON that people write: a key that is given twice is refused, where Python takes the last."""

import json
import re
from typing import Any


class GivenTwice(ValueError):
    """An object has a key twice."""


def from_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        GivenTwice: an object has a key twice; names the key, and its values in short.
        ValueError: it is no JSON, or no UTF-8.
    """
    return DECODER.decode(_decoded(text))


def item_given_twice(array: str | bytes) -> int:
    """Which item of an array, from 1 on, is the first that ``from_json`` refuses for its keys."""
    text = _decoded(array)
    place, number = text.index("[") + 1, 0
    while True:
        number += 1
        try:
            start = BETWEEN.match(text, place)
            assert start is not None
            _, place = DECODER.raw_decode(text, start.end())
        except GivenTwice:
            return number


def _decoded(text: str | bytes) -> str:
    if isinstance(text, bytes):
        return text.decode(json.detect_encoding(text), "surrogatepass")  # as json.loads does
    return text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        values = " and ".join(_short(value) for key, value in pairs if key == twice)
        raise GivenTwice(f"the key {twice!r} is given twice ({values}): keep one")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


BETWEEN = re.compile(r"[\s,]*")  # two items of an array
DECODER = json.JSONDecoder(object_pairs_hook=_object)  # made once: json.loads would at each call
