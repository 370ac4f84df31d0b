"""What an answer gave, held against the right value; a wrong one is told what is wrong with it."""

import reprlib
from collections.abc import Callable, Mapping
from typing import Any, get_origin

import torch
from torch import Tensor


class Unwritten(Exception):
    """An exercise without an answer: it is None or an ellipsis."""


def written(answer: Any) -> Any:
    """The answer itself.

    Raises:
        Unwritten: it is None or an ellipsis, or a tuple or list that holds one.
    """
    parts = answer if isinstance(answer, tuple | list) else (answer,)
    if any(part is None or part is ... for part in parts):
        raise Unwritten
    return answer


def of_kind(answer: Any, kind: Any) -> Any:
    """An answer that is what its exercise asks for: a function, a pair of numbers, or a number.

    Args:
        kind: as a check's own annotation says it.
    Raises:
        AssertionError: it is something else; the message says what is asked for, and what came.
    """
    if get_origin(kind) is tuple:
        return pair(answer)
    if get_origin(kind) is not get_origin(Callable[..., Any]):
        return number(answer)
    if not callable(answer):
        raise AssertionError(f"expected a function, got {_short(answer)}")
    return answer


def pair(value: Any, where: str = "") -> tuple[float, float]:
    """Two numbers.

    Raises:
        Unwritten: nothing came.
        AssertionError: as ``of_kind``; begins with ``where``, the input in words.
    """
    parts = [] if isinstance(written(value), str | dict) else _parts(value)
    if len(parts) != 2:
        raise AssertionError(f"{_at(where)}expected a pair of numbers, got {_short(value)}")
    return number(parts[0], where), number(parts[1], where)


def number(value: Any, where: str = "") -> float:
    """A number; the rest is as for ``pair``."""
    try:
        if isinstance(written(value), str):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise AssertionError(f"{_at(where)}expected a number, got {_short(value)}") from None


def expect(
    found: Any,
    expected: Tensor | float,
    where: str,
    mistakes: Mapping[str, Tensor | float] | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
) -> None:
    """Hold a value against the right one.

    Args:
        found: what the answer gave: a number or a tensor.
        where: the input, in words.
        mistakes: values that come from a known mistake, each under the words that name it.
        rtol, atol: how far off a value may be, as a share of it and besides.
    Raises:
        Unwritten: nothing came.
        AssertionError: the value is wrong; the message has the input, the right value, what came,
            and the mistake where it is known.
    """
    expected = torch.as_tensor(expected, dtype=torch.float64)
    try:
        value = torch.as_tensor(written(found), dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"{where}: expected {_shown(expected)}, got {found!r}") from None
    if value.shape != expected.shape:
        shapes = f"shape {list(expected.shape)}, got {list(value.shape)}"
        raise AssertionError(f"{where}: expected {shapes}")
    if not torch.allclose(value, expected, rtol, atol):
        known = [
            words
            for words, mistaken in (mistakes or {}).items()
            if _is(value, torch.as_tensor(mistaken, dtype=torch.float64), rtol)
        ]
        hint = f" ({known[0]})" if known else ""
        right, came = _shown_apart(expected, value)
        raise AssertionError(f"{where}: expected {right}, got {came}{hint}")


def _is(value: Tensor, mistaken: Tensor, rtol: float) -> bool:
    return value.shape == mistaken.shape and torch.allclose(value, mistaken, rtol)


def _shown_apart(expected: Tensor, value: Tensor) -> tuple[str, str]:
    """Both in four digits, or in as many as tell them apart."""
    both = [(_shown(expected, digits), _shown(value, digits)) for digits in range(4, 18)]
    return next((each for each in both if each[0] != each[1]), both[-1])


def _shown(value: Tensor, digits: int = 4) -> str:
    numbers = [f"{number:.{digits}g}" for number in value.flatten().tolist()]
    return f"[{', '.join(numbers)}]" if value.dim() else numbers[0]


def _parts(value: Any) -> list[Any]:
    try:
        return list(value)
    except TypeError:
        return []


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _short(value: Any) -> str:
    """What came, in at most some 40 characters."""
    return "a function" if callable(value) else reprlib.repr(value)
