"""The user's function: found by its name, imported, and called; what it raises is its own fault.

Whatever it raises becomes one line with the file and line of the user's code. So does ``sys.exit``,
or a file that exits would pass as a loss that was checked. What KD Lab's own code raises stays a
fault of KD Lab.
"""

import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kd_lab.recipe import did_you_mean

PACKAGE = Path(__file__).parents[1]
LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))
# Of a call that does not fit the function, which our own code makes.
OF_A_CALL = (TypeError, RuntimeError, IndexError, KeyError, AttributeError)


def load_function(name: str) -> Callable[..., torch.Tensor]:
    """The function of ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``.

    Raises:
        ValueError: no such module, file or function; what importing it raised.
    """
    module_name, colon, function_name = name.rpartition(":")
    if not (colon and module_name and function_name):
        raise ValueError(f"function is MODULE:FUNCTION or FILE.py:FUNCTION, not {name!r}")
    path = Path(module_name)
    if path.suffix == ".py" and not path.is_file():
        raise ValueError(f"function {name}: there is no file {module_name}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        with blamed_on_the_user(f"function {name}: it cannot be imported"):
            is_file = path.suffix == ".py"
            module = _from_file(path) if is_file else importlib.import_module(module_name)
    finally:
        sys.path.pop(0)
    found = module
    for part in function_name.split("."):
        if not hasattr(found, part):
            near = did_you_mean(
                part, [known for known in vars(module) if not known.startswith("_")]
            )
            raise ValueError(f"function {name}: {module_name} has no {part!r}{near}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"function {name}: it is no function")
    return found


def source_of(name: str) -> Path | None:
    """The file that a function was imported from; None where it has none."""
    module_name = name.rpartition(":")[0]
    if module_name.endswith(".py"):
        return Path(module_name)
    file = getattr(sys.modules.get(module_name), "__file__", None)
    return None if file is None else Path(file)


@contextmanager
def blamed_on_the_user(what: str, file: Path | None = None) -> Iterator[None]:
    """What the user's code raises inside, in one line.

    Args:
        what: the beginning of that line.
        file: that is the user's though it lies among libraries.
    Raises:
        ValueError: whatever was raised; names the user's file and line where there is one.
    """
    try:
        yield
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = _place(error, frames, file)
        raised_here = not place and PACKAGE in Path(frames[-1].filename).parents
        if raised_here and not isinstance(error, OF_A_CALL):  # a refusal, or a fault of KD Lab
            raise
        raise ValueError(f"{what}: {place}{_reason(error)}") from error


def _from_file(path: Path) -> Any:
    # Its module has a name of its own: a losses.py, or a json.py, takes no other's place.
    spec = importlib.util.spec_from_file_location(f"checked_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _place(error: BaseException, frames: traceback.StackSummary, file: Path | None) -> str:
    """``FILE:LINE: `` of the user's code that raised last, or nothing."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{_short(Path(error.filename))}:{error.lineno}: "
    theirs = [frame for frame in frames if _is_the_users(Path(frame.filename), file)]
    return f"{_short(Path(theirs[-1].filename))}:{theirs[-1].lineno}: " if theirs else ""


def _is_the_users(path: Path, file: Path | None) -> bool:
    if not path.is_file():  # <frozen importlib._bootstrap>, <string>
        return False
    if file is not None and path.samefile(file):
        return True
    return not any(folder in path.resolve().parents for folder in (PACKAGE, *LIBRARIES))


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if Path.cwd() in path.parents else path


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "it calls sys.exit, and a check must come to its end"
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    lines = said.strip().splitlines()
    return type(error).__name__ + (f": {lines[0]}" if lines else "")
