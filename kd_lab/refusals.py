"""How a command that cannot go on ends: one line on stderr, and an exit code.

    2      a mistake to mend: a value, a file, a package that is missing, a full disk
    1      a run that failed on its way: a loss that is not finite, no memory left
    130    Ctrl-C; the line says how to go on
    1      a fault of KD Lab itself: the line says so, and where it was raised
    141    nothing is said: the command that read the output, such as head, has ended

With KD_LAB_TRACEBACK=1 every one of them is the whole traceback instead.
"""

import traceback
from pathlib import Path
from typing import NamedTuple

GOES_ON = {
    "train": "the same command with --resume_from_checkpoint true goes on from its last whole "
    "checkpoint",
    "generate": "the same command goes on at the shard where it was",
    "cache": "the same command goes on at the shard where it was",
    "evaluate": "the same command begins again, with the answers that are stored",
    "demo": "the same command goes on where it was",
    "data": "nothing was written, and the same command begins again",
    "questions": "nothing was written, and the same command begins again",
    "report": "an earlier report is as it was, and the same command writes the new one",
}
NOBODY_READS = 141  # as of a command that SIGPIPE ends
TRACEBACK = "KD_LAB_TRACEBACK"  # the environment variable that asks for tracebacks
PACKAGE = Path(__file__).parent


class Refusal(NamedTuple):
    """What is said, in one line, and the exit code."""

    line: str
    code: int


def refusal(error: BaseException) -> Refusal:
    """The line and the exit code for what a command raised."""
    if isinstance(error, FloatingPointError):
        return Refusal(_error(str(error)), 1)
    if isinstance(error, MemoryError):
        return Refusal(_error("this machine's memory ran out: make the batches smaller"), 1)
    if type(error).__name__ == "OutOfMemoryError":  # torch's; importing torch takes seconds
        return Refusal(_error(f"the GPU's memory ran out: {_first_sentence(error)}"), 1)
    if isinstance(error, ImportError):  # ModuleNotFoundError, or of a library that asks for another
        return Refusal(_error(f"a package is missing: {_first_sentence(error)}"), 2)
    if isinstance(error, OSError):
        return Refusal(_error(_of_the_system(error)), 2)
    if isinstance(error, ValueError):
        return Refusal(_error(str(error) or type(error).__name__), 2)
    return Refusal(_error(_fault(error)), 1)


def stopped(command: str) -> Refusal:
    """The line and the exit code after Ctrl-C."""
    how = GOES_ON.get(command)
    return Refusal(f"kd-lab: stopped{'; ' + how if how else ''}", 130)


def _error(message: str) -> str:
    return f"kd-lab: error: {' '.join(message.split())}"


def _first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _of_the_system(error: OSError) -> str:
    """``FILE: No space left on device`` rather than ``[Errno 28] No space left on device``."""
    if error.strerror is None or error.errno is None:  # of a library, in its own words
        return str(error) or type(error).__name__
    if error.filename is None:
        return error.strerror
    return f"{error.filename}: {error.strerror}"


def _fault(error: BaseException) -> str:
    """Where an exception that nobody foresaw was raised, in the last of our own frames."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if PACKAGE in Path(frame.filename).parents]
    where = ""
    if ours:
        last = ours[-1]
        file = Path(last.filename).relative_to(PACKAGE.parent).as_posix()
        where = f" ({file}:{last.lineno}, {last.name})"
    return (
        f"a fault of KD Lab: {type(error).__name__}: {_first_sentence(error)}{where}; please "
        f"report it with the traceback that {TRACEBACK}=1 shows"
    )
