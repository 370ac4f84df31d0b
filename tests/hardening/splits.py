"""A step's loss and gradient do not depend on what the step is split into.

Rows of different lengths, first in one batch. Then in micro-batches, in two gloo processes, and
under ZeRO-2 and ZeRO-3 (student and teacher sharded). The cases are those of one_step_worker.py.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from kd_lab.trainers.figures import LOSSES
from tests.hardening.cases import Case
from tests.helpers.cache_problem import cached
from tests.helpers.forked_processes import one_process, two_processes
from tests.helpers.one_step_worker import write_steps
from tests.helpers.toy_pair import TOKENIZER, toy_model

KIND = "splits"
CLOSE = 1e-5  # relative
FIGURES = ("loss", "grad_norm", "cross_entropy", "divergence")


class Split(NamedTuple):
    """Processes, the rows of each at a time, micro-batches of a step, and the ZeRO stage."""

    processes: int
    batch: int
    accumulate: int
    stage: int = 0


WHOLE = "one batch"
SPLITS = {
    WHOLE: Split(1, 8, 1),
    "four micro-batches": Split(1, 2, 4),
    "two processes": Split(2, 2, 2),
    "ZeRO-2": Split(2, 2, 2, 2),
    "ZeRO-3": Split(2, 4, 1, 3),
    "eight micro-batches": Split(1, 1, 8),
    "two processes, undivided": Split(2, 4, 1),
}


def steps_of_splits(folder: Path) -> Iterator[Case]:
    """Every case of one_step_worker.py in these splits, compared with one batch.

    Args:
        folder: an empty one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps = steps_of(SPLITS, folder)
    whole = steps.pop(WHOLE)
    for name, cases in steps.items():
        for case, found in cases.items():
            fault = difference(SPLITS[name], found, whole[case])
            yield Case(KIND, f"{case}, {name}", "silent" if fault else "held", fault)


def teacher_caches(folder: Path) -> dict[str, str]:
    """The worker's teacher on some rows of the toy language: its hidden states, and its top 16."""
    toy_model(64, 2, seed=2).save_pretrained(folder / "teacher")
    TOKENIZER.save_pretrained(folder / "teacher")
    cached(folder / "teacher", folder / "hidden")
    cached(folder / "teacher", folder / "topk", teacher_signal="topk", topk=16)
    return {signal: str(folder / signal) for signal in ("hidden", "topk")}


def steps_of(splits: Mapping[str, Split], folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """What each case logs, split in each of these ways.

    The ways with as many processes follow each other in the same ones. DeepSpeed comes last: what
    it sets lasts as long as its process.
    """
    caches = teacher_caches(folder)
    files = {name: folder / f"{name}.json" for name in splits}
    for count in sorted({split.processes for split in splits.values()}):
        mine = [name for name, split in splits.items() if split.processes == count]
        mine.sort(key=lambda name: splits[name].stage)
        settings = {files[name]: splits[name][1:] for name in mine}
        logs = folder / f"logs of {count}"
        if count == 1:
            one_process(write_steps, settings, caches, log=logs).join()
            told = [logs]
        else:
            # Gloo may abort a process that is already done, so that what was written counts.
            with contextlib.suppress(ChildFailedError):
                two_processes(write_steps, settings, caches, logs=logs)
            told = [*logs.rglob("stderr.log")]
        for name in mine:
            assert files[name].exists(), [name, *(file.read_text()[-3000:] for file in told)]
    return {name: json.loads(file.read_text()) for name, file in files.items()}


def difference(split: Split, found: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """The first figure that is not that of one batch, in words; "" where all are."""
    made = found["num_processes"], found["distributed_type"] == "DEEPSPEED"
    if made != (split.processes, split.stage > 0):
        return f"processes, DeepSpeed: {made}"
    if {*found["is_sharded"].values()} != {split.stage == 3}:
        return f"sharded: {found['is_sharded']}"
    if len(found["steps"]) != len(whole["steps"]):
        return f"{len(found['steps'])} steps, and {len(whole['steps'])} in one batch"
    pairs = [
        (f"{figure} of step {number}", step[figure], expected[figure])
        for number, (step, expected) in enumerate(zip(found["steps"], whole["steps"], strict=True))
        for figure in FIGURES
    ]
    for figure in (f"eval_{loss}" for loss in LOSSES if "evaluation" in found):
        pairs.append((figure, found["evaluation"][figure], whole["evaluation"][figure]))
    for what, value, expected in pairs:
        if not math.isclose(value, expected, rel_tol=CLOSE):
            return f"{what} is {value:.8g}, and {expected:.8g} in one batch"
    return ""
