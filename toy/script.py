"""The habits of every script here: common options, an output folder, refusals in one line."""

import argparse
import math
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from kd_lab.terminal import take_any_text


class Parser(argparse.ArgumentParser):
    """An option that does not fit is a ValueError, one line without the usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(re.sub(r"^argument (\S+): (?=must )", r"\1 ", message))


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of an option: a whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
        if value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low:,}, not {value}")
        if value > high:
            raise argparse.ArgumentTypeError(f"must be at most {high:,}, not {value:.6g}")
        return value

    return parse


def number(text: str) -> float:
    """The type of an option: a number within a million of 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= 1e6:
        raise argparse.ArgumentTypeError(f"must be a number from -1e6 to 1e6, not {text!r}")
    return value


def script_parser(description: str | None, out: str = "assets") -> Parser:
    """A parser with the options all scripts share: ``--out`` and ``--seed``."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path(out), metavar="DIR", help=f"output folder (default: {out})"
    )
    parser.add_argument(
        "--seed", type=whole(0, 2**32 - 1), default=0, help="random seed (default: 0)"
    )
    return parser


def run_script(main: Callable[[Sequence[str] | None], None]) -> None:
    """Run ``main``; a refusal (ValueError, OSError) is one line on stderr and exit code 2.

    Ctrl-C is one line too, and exit code 130.
    """
    take_any_text()
    try:
        main(None)
    except (ValueError, OSError) as refusal:
        print(f"{Path(sys.argv[0]).name}: error: {refusal}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: stopped", file=sys.stderr)
        sys.exit(130)


def writable_folder(folder: Path) -> Path:
    """Make the folder if need be and check that it can be written, before any work is done.

    Raises:
        ValueError: it cannot be made or written; the message says why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"cannot write to output folder {folder}: {error.strerror}") from error
    return folder


def json_file(path: Path | None, figures: Sequence[Path]) -> Path | None:
    """The file of ``--json``, before any work is done.

    Args:
        path: as it was given.
        figures: the files that the script draws.
    Raises:
        ValueError: it is one of the figures, a folder, or cannot be written.
    """
    if path is None:
        return None
    writable_folder(path.parent)
    if path.is_dir():
        raise ValueError(f"--json {path} is a folder: name a file")
    if path.resolve() in {figure.resolve() for figure in figures}:
        raise ValueError(f"--json {path} is where the figure goes: name another file")
    return path
