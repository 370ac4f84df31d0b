"""The machine under a run: its cores, its memory and its GPUs, and the memory that a run took."""

import importlib.util
import math
import os
from collections.abc import Iterator
from pathlib import Path

OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def cores() -> int:
    """How many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> float:
    """Bytes of memory for this process: the machine's, or its container's or job's limit.

    Returns:
        the least of them; infinity where the system does not say.
    """
    return min([_installed(), *limits()])


def _installed() -> float:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if importlib.util.find_spec("psutil") is None:
        return math.inf
    import psutil

    return float(psutil.virtual_memory().total)


def limits(own_groups: Path = OWN_GROUPS, groups: Path = GROUPS) -> Iterator[float]:
    """The memory limits of the control groups around this process, in bytes; none but on Linux.

    Args:
        own_groups: the file that names this process's groups, ``ID:CONTROLLERS:PATH`` a line.
        groups: the folder of all groups that are seen. A container sees its own one as the root.
    """
    try:
        lines = own_groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # of version 2
            root, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for around in (group, *group.parents):
            if around.is_relative_to(root) and (around / name).is_file():
                limit = (around / name).read_text(encoding="utf-8").strip()
                if limit.isdigit():  # or "max"
                    yield float(limit)
