"""What an answer gave, held against the right value; a wrong one is told what is wrong with it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Unwritten(Exception):
    """An exercise without an answer: it is None or an ellipsis."""


def written(answer: Any) -> Any:
    """The answer itself.

    Raises:
        Unwritten: it is None or an ellipsis, or a tuple that holds one.
    """
    parts = answer if isinstance(answer, tuple) else (answer,)
    if any(part is None or part is ... for part in parts):
        raise Unwritten
    return answer


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
        wrong = f"expected {_shown(expected)}, got {_shown(value)}{hint}"
        raise AssertionError(f"{where}: {wrong}")


def _is(value: Tensor, mistaken: Tensor, rtol: float) -> bool:
    return value.shape == mistaken.shape and torch.allclose(value, mistaken, rtol)


def _shown(value: Tensor) -> str:
    numbers = [f"{number:.4g}" for number in value.flatten().tolist()]
    return f"[{', '.join(numbers)}]" if value.dim() else numbers[0]
