"""One ``kd-lab`` command in a process of its own, forked from one that has imported all libraries.

A command so takes a fraction of a second instead of ten, and what it breaks ends with it.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.helpers.forked_processes import SERVER

SECONDS = 60.0  # a command that takes longer hangs
MEMORY = 24 * 2**30  # bytes of addresses; the libraries alone take several GiB of them
SERVER.set_forkserver_preload(
    [
        "kd_lab.train",
        "kd_lab.demo",
        "kd_lab.evaluation.evaluate",
        "kd_lab.rollout.questions",
        "kd_lab.teacher.cache",
        "kd_lab.planning.plan",
        "kd_lab.data.prepare",
        "kd_lab.doctor",
        "kd_lab.check.check",
        "peft",
        "rouge_score.rouge_scorer",
    ]
)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; None: it was stopped after ``SECONDS``.
        loaded: whether a model with weights was made before.
        seconds: from the fork to the end.
    """

    code: int | None
    out: str
    err: str
    loaded: bool
    seconds: float


def run_command(words: list[str], place: Path, limits: dict[int, int] | None = None) -> Ended:
    """Run ``kd-lab WORDS`` in the folder ``place``.

    Args:
        limits: more limits of the process, as ``resource`` has them; a file-size limit raises an
            OSError, as a full disk does.
    """
    notes = {name: place / f".{os.getpid()}.{name}" for name in ("out", "err", "loaded")}
    process = SERVER.Process(target=_command, args=(words, place, notes, limits or {}))
    started = time.monotonic()
    process.start()
    process.join(SECONDS)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    said = {
        name: path.read_text("utf-8", "replace") if path.exists() else ""
        for name, path in notes.items()
    }
    for path in notes.values():
        path.unlink(missing_ok=True)
    seconds = time.monotonic() - started
    return Ended(code, said["out"], said["err"], bool(said["loaded"]), seconds)


def _command(words: list[str], place: Path, notes: dict[str, Path], limits: dict[int, int]) -> None:
    os.chdir(place)
    for descriptor, name in ((1, "out"), (2, "err")):
        with notes[name].open("w") as file:
            os.dup2(file.fileno(), descriptor)
    torch.set_num_threads(1)
    os.environ["KD_LAB_CACHE"] = str(place / "rows")
    _note_models(notes["loaded"])
    for limit, value in {resource.RLIMIT_AS: MEMORY, **limits}.items():
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
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
