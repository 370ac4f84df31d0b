"""``kd-lab`` in a notebook: the command line's own commands, without progress bars and tables.

    kd_lab("train --config tiny/teacher --max_steps 200")
    # $ kd-lab train --config tiny/teacher --max_steps 200
    # wrote runs/tiny/teacher: the student, metrics.jsonl, config.yaml, README.md

The command runs in the notebook's own process, which has imported torch already.
"""

import builtins
import io
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from kd_lab.cli import main

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # a terminal's colours and cursor


def kd_lab(line: str, *, more: str = "", lines: int = 1) -> None:
    """Run a command in this process; print it, and the last lines of its output.

    Args:
        line: the words after ``kd-lab``, quoted as in a shell.
        more: further options, printed as three dots.
        lines: how many lines to print.
    Raises:
        RuntimeError: the command failed; the message is the command's last line.
    """
    told, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(told), redirect_stderr(errors), _outside_of_a_notebook():
        code = main(shlex.split(f"{line} {more}"))
    if code:
        raise RuntimeError(f"kd-lab {line}: {errors.getvalue().strip().splitlines()[-1]}")
    said = ESCAPES.sub("", told.getvalue()).rstrip().splitlines()
    print(f"$ kd-lab {line}{' ...' if more else ''}", *said[max(len(said) - lines, 0) :], sep="\n")


@contextmanager
def _outside_of_a_notebook() -> Iterator[None]:
    """Hide ``get_ipython``: where rich finds it, rich shows widgets."""
    found = vars(builtins).pop("get_ipython", None)
    try:
        yield
    finally:
        if found is not None:
            vars(builtins)["get_ipython"] = found
