"""One ``kd-lab`` command in a process of its own, forked from one that has imported all libraries.

A command so takes a fraction of a second instead of ten, and what it breaks ends with it. Here it
is started and waited for, and it is judged how it ended and what it left.
"""

import ctypes
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kd_lab.files import sha256_of, sha256_of_file
from tests.helpers.forked_processes import SERVER

ERROR = "kd-lab: error: "
PASSES_PERMISSIONS = 1  # the number of CAP_DAC_OVERRIDE
# What differs between two runs of one command: durations, memory, the time of day.
OF_A_MOMENT = re.compile("second|runtime|peak|started|speed|versions|^sha256$")
NOT_A_RESULT = ("README.md", "versions.json", "complete", "training_args.bin", ".lock")


class Bounds(NamedTuple):
    """What a command may not pass."""

    seconds: float = 900.0  # one that takes longer hangs
    memory: int | None = None  # bytes of addresses; the libraries alone take several GiB of them
    file: int | None = None  # bytes of a file; writing more fails, as on a full disk
    heeds_permissions: bool = False  # root too


USUAL = Bounds()


class Said(NamedTuple):
    """How a command ended.

    Attributes:
        code: its exit code; negative: the signal that it died of; None: it was stopped.
        loaded: whether a model with weights was made before.
    """

    code: int | None
    out: str
    err: str
    loaded: bool = False

    @property
    def end(self) -> str:
        """Its error and all after it, or else the last line."""
        at = self.err.rfind(ERROR)
        if at >= 0:
            return self.err[at:].strip()
        return f"{self.out}\n{self.err}".strip().rpartition("\n")[2]


class Running(NamedTuple):
    """A command at work, and the folder of what it prints."""

    process: ForkServerProcess
    notes: Path
    bounds: Bounds


def started(folder: Path, words: Sequence[str], bounds: Bounds = USUAL) -> Running:
    """``kd-lab WORDS`` at work in a folder; the rows that it tokenises stay in its ``rows``."""
    notes = Path(tempfile.mkdtemp(prefix="said-"))
    process = SERVER.Process(target=_command, args=(folder, [*words], notes, bounds))
    process.start()
    while not (notes / "err").exists() and process.is_alive():  # it is forked, and not yet at work
        time.sleep(0.001)
    return Running(process, notes, bounds)


def ended(running: Running) -> Said:
    """Wait for a command."""
    running.process.join(running.bounds.seconds)
    code = running.process.exitcode
    if code is None:
        running.process.kill()
        running.process.join()
    out, err = (
        path.read_text("utf-8", "replace") if path.exists() else ""
        for path in (running.notes / "out", running.notes / "err")
    )
    loaded = (running.notes / "loaded").exists()
    shutil.rmtree(running.notes)
    return Said(code, out, err, loaded)


def ran(folder: Path, words: Sequence[str], bounds: Bounds = USUAL) -> Said:
    """Run a command to its end."""
    return ended(started(folder, words, bounds))


def interrupt(running: Running) -> None:
    """Ctrl-C, as a terminal sends it: to the command and its workers."""
    os.killpg(running.process.pid or 0, signal.SIGINT)


def outcome_of(said: Said, names: Iterable[str], same: bool) -> str:
    """Whether a command held, and if not, how it failed.

    Args:
        names: of the file or folder at fault; a refusal has one of them.
        same: whether the results are those of an undamaged, lonely, uninterrupted command.
    """
    if said.code == 0 and "Traceback" not in said.err:
        return "held" if same else "silent"
    return refusal_of(said, names)


def refusal_of(said: Said, names: Iterable[str]) -> str:
    """Whether a command that cannot go on says so in one line that has one of the names."""
    lines = [line for line, _ in groupby(said.err.splitlines())]
    errors = [number for number, line in enumerate(lines) if line.startswith(ERROR)]
    if said.code is None:
        return "hangs"
    if "Traceback" in said.err or "a fault of KD Lab" in said.err:
        return "traceback"
    if not errors or said.code not in (1, 2):
        return "lost"
    if len(errors) > 1 or lines[errors[0] + 1 :]:
        return "several lines"
    return "held" if any(name in lines[errors[0]] for name in names) else "not named"


def results(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    """What a command left: the files' names and digests, without durations and times of day."""
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {
        path.relative_to(folder).as_posix(): _digest(path)
        for path in sorted(paths)
        if path.name not in NOT_A_RESULT
    }


def _digest(path: Path) -> str:
    if path.name not in ("metrics.jsonl", "evaluation.json"):
        return sha256_of_file(path)
    try:
        values = [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError:
        return sha256_of_file(path)
    # The summary's mean loss is of the steps since the last start.
    lasting = [_lasting(value) for value in values if "train_runtime" not in value]
    return sha256_of(json.dumps(lasting, sort_keys=True))


def _lasting(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if not OF_A_MOMENT.search(key)}


def _command(folder: Path, words: list[str], notes: Path, bounds: Bounds) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, name in ((1, "out"), (2, "err")):
        with (notes / name).open("w") as file:
            os.dup2(file.fileno(), descriptor)
    os.chdir(folder)
    os.environ["KD_LAB_CACHE"] = str(folder / "rows")
    torch.set_num_threads(1)  # models this small are fastest so, and their bits are then the same
    _note_models(notes / "loaded")
    for limit, value in ((resource.RLIMIT_AS, bounds.memory), (resource.RLIMIT_FSIZE, bounds.file)):
        if value is not None:
            resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
    if bounds.heeds_permissions:
        _heed_permissions()
    from kd_lab.cli import main

    sys.argv = ["kd-lab", *words]
    sys.exit(main())


def _note_models(note: Path) -> None:
    """Write the file ``note`` when a model with weights is made, by whatever function."""
    import huggingface_hub.constants
    from transformers import PreTrainedModel

    huggingface_hub.constants.HF_HUB_OFFLINE = True
    for maker in ("from_pretrained", "_from_config"):
        make = getattr(PreTrainedModel, maker).__func__

        def noted(cls: type, *args: object, make: Callable = make, **more: object) -> object:
            if torch.get_default_device().type != "meta":  # a plan counts weights, and has none
                note.write_text("a model")
            return make(cls, *args, **more)

        setattr(PreTrainedModel, maker, classmethod(noted))


def _heed_permissions() -> None:
    """Take from this process root's right to write where the permissions say no."""
    if os.geteuid() != 0:
        return
    system = ctypes.CDLL(None, use_errno=True)
    version_3_of_this_process = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then their high words
    if system.capget(version_3_of_this_process, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for number in (0, 1):
        sets[number] &= ~(1 << PASSES_PERMISSIONS)
    if system.capset(version_3_of_this_process, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")
