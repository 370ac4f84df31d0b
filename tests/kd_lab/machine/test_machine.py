"""The memory and cores that a process may use, which are not always the machine's."""

import math
import os
import sys

import pytest

from kd_lab import doctor, machine
from kd_lab.machine import cores, limits, memory

GIB = 2**30


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {"memory.max": f"{GIB}\n"}, [GIB]),  # a container of version 2
        ("0::/", {"memory.max": "max\n"}, []),
        ("0::/", {}, []),  # the root of a machine has no limit
        (
            "0::/slurm/job_1",  # the limit of a job, and that of all jobs
            {"slurm/job_1/memory.max": f"{GIB}", "slurm/memory.max": f"{4 * GIB}"},
            [GIB, 4 * GIB],
        ),
        (
            "5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n0::/",  # one of version 1
            {"memory/memory.limit_in_bytes": f"{2 * GIB}\n", "cpu/memory.limit_in_bytes": "1"},
            [2 * GIB],
        ),
    ],
)
def test_limits_of_containers_and_jobs(tmp_path, own, files, expected):
    (tmp_path / "own").write_text(own)
    for name, limit in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(limit)
    assert list(limits(tmp_path / "own", tmp_path / "groups")) == expected


def test_a_system_without_groups_has_no_limit(tmp_path):
    assert list(limits(tmp_path / "none", tmp_path)) == []


def test_memory_is_the_least_of_all_limits(monkeypatch):
    psutil = pytest.importorskip("psutil")
    assert 0 < memory() <= psutil.virtual_memory().total
    monkeypatch.setattr(machine, "limits", lambda: iter([3e9, 2e9]))
    assert memory() == 2e9
    monkeypatch.setattr(machine, "limits", lambda: iter([]))
    assert memory() == pytest.approx(psutil.virtual_memory().total, rel=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bind no process to cores")
def test_cores_are_those_that_the_process_is_bound_to():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert cores() == len(before)


def test_the_doctor_names_a_limit(monkeypatch):
    monkeypatch.setattr(doctor, "memory", lambda: 2e9)
    assert doctor._memory().startswith("2 GB, the limit of a container or job; the machine has ")
    monkeypatch.setattr(doctor, "memory", lambda: math.inf)
    assert doctor._memory() == "not known without psutil, which make demo installs"
    monkeypatch.undo()
    assert doctor._memory().split(" GB, ")[0].isdigit()
