"""The habits of every script here: common options, an output folder, refusals in one line."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from kd_lab.terminal import take_any_text


def script_parser(description: str | None, out: str = "assets") -> argparse.ArgumentParser:
    """A parser with the options all scripts share: ``--out`` and ``--seed``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path(out), metavar="DIR", help=f"output folder (default: {out})"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
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
