"""Output for a terminal: a line before a wait, bars that end, any text, closed pipes."""

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def take_any_text() -> None:
    """Make stdout and stderr write letters that their encoding lacks as ``\\u2016``.

    So no command dies of a ``‖`` in a terminal that is not UTF-8 (LC_ALL=C, PYTHONIOENCODING).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def written_out() -> Iterator[None]:
    """Write all that stdout holds back before the end: Python would report a closed pipe itself."""
    try:
        yield
    except SystemExit:
        print(end="", flush=True)  # also where there is no stdout at all
        raise
    print(end="", flush=True)


def nobody_reads() -> bool:
    """Whether stdout is a pipe whose reader has ended (``| head -1``); then no more is written.

    Another pipe may be the one that is closed, such as that of a server.
    """
    try:
        place = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # it is nothing, or no file
        return False
    if not hasattr(select, "poll"):  # Windows
        return False
    watched = select.poll()
    watched.register(place, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in watched.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, place)  # for what Python still writes at its exit
    os.close(nowhere)
    return True


def end_progress_bars() -> None:
    """Close the bars that a broken-off training left open: what is said next has its own line."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


@contextmanager
def waiting(for_what: str) -> Iterator[None]:
    """Say on stderr that a step takes long: on a terminal while it runs, in a log as one line."""
    if not sys.stderr.isatty():
        print(for_what, file=sys.stderr, flush=True)
        yield
        return
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.text import Text

    spinner, console = Spinner("line", Text(for_what)), Console(stderr=True)
    # stdout stays its own: a script may read it while a person watches stderr.
    with Live(spinner, console=console, transient=True, redirect_stdout=False):
        yield
