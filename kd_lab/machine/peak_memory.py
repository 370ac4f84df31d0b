"""The most memory that processes have held, in bytes, on every system that has Python."""

import sys


def own_peak() -> int:
    """This process's largest resident memory, in bytes."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _unit()


def largest_child_peak() -> int | None:
    """The largest of the ended child processes, in bytes; None on Windows, which forgets it."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _unit()


def _unit() -> int:
    return 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
