"""Ctrl-C is heard wherever it falls.

Python raises KeyboardInterrupt in whatever code runs just then. If that is an object's ``__del__``,
Python prints a traceback, forgets the interrupt, and the command goes on.
"""

import _thread
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AFTER = 0.05  # seconds; the object is gone by then


@contextmanager
def heard_everywhere() -> Iterator[None]:
    """Raise an interrupt that was swallowed once more, a moment later."""
    before = sys.unraisablehook

    def again(swallowed: "sys.UnraisableHookArgs") -> None:
        if issubclass(swallowed.exc_type, KeyboardInterrupt):
            threading.Timer(AFTER, _thread.interrupt_main).start()
        else:
            before(swallowed)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before
