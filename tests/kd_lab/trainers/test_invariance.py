"""A step's loss and gradient do not depend on what the step is split into.

Eight rows of different lengths: one batch, four accumulated micro-batches, two gloo processes,
ZeRO-2 and ZeRO-3 (student and teacher sharded), for each of the three trainers.
"""

import contextlib
import json
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from tests.helpers.forked_processes import one_process, two_processes
from tests.helpers.one_step_worker import write_steps

# name: (processes, batch, accumulated micro-batches, ZeRO stage)
SPLITS = {
    "one batch": (1, 8, 1, 0),
    "four micro-batches": (1, 2, 4, 0),
    "two processes": (2, 2, 2, 0),
    "ZeRO-2": (2, 2, 2, 2),
    "ZeRO-3": (2, 4, 1, 3),
}


def steps_of(split: str, folder: Path) -> dict[str, dict]:
    processes, *settings = SPLITS[split]
    out, log = folder / f"{split}.json", folder / "log"
    if processes == 1:
        one_process(write_steps, out, *settings, log=log).join()
        assert out.exists(), log.read_text()[-3000:]
    else:
        # Gloo may abort a process that is already done, so that what was written counts.
        with contextlib.suppress(ChildFailedError):
            two_processes(write_steps, out, *settings, logs=log)
        assert out.exists(), [file.read_text()[-3000:] for file in log.rglob("stderr.log")]
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def one_batch(tmp_path_factory) -> dict[str, dict]:
    return steps_of("one batch", tmp_path_factory.mktemp("one_batch"))


@pytest.mark.slow
@pytest.mark.parametrize("split", [name for name in SPLITS if name != "one batch"])
def test_loss_and_gradient_norm_are_those_of_one_batch(split, one_batch, tmp_path):
    steps = steps_of(split, tmp_path)
    processes, _, _, stage = SPLITS[split]
    for case, step in steps.items():
        assert step["num_processes"] == processes, case
        assert (step["distributed_type"] == "DEEPSPEED") == (stage > 0), case
        assert step["student_is_sharded"] == step["teacher_is_sharded"] == (stage == 3), case
        for name in ("loss", "grad_norm", "cross_entropy", "divergence"):
            assert step[name] == pytest.approx(one_batch[case][name], rel=1e-5), (case, name)
