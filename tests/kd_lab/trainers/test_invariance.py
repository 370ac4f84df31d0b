"""A step's loss and gradient do not depend on what the step is split into.

Rows of different lengths: one batch, four accumulated micro-batches, two gloo processes, ZeRO-2 and
ZeRO-3 (student and teacher sharded). The cases are those of one_step_worker.py: the three trainers,
epochs that fill no last batch, the order by length, joined rows, LoRA, a stored teacher, a process
without trained tokens, and the figures of an evaluation.
"""

import contextlib
import json
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from kd_lab.trainers.figures import LOSSES
from tests.helpers.cache_problem import cached
from tests.helpers.forked_processes import one_process, two_processes
from tests.helpers.one_step_worker import write_steps
from tests.helpers.toy_pair import TOKENIZER, toy_model

# name: (processes, batch, accumulated micro-batches, ZeRO stage)
SPLITS = {
    "one batch": (1, 8, 1, 0),
    "four micro-batches": (1, 2, 4, 0),
    "two processes": (2, 2, 2, 0),
    "ZeRO-2": (2, 2, 2, 2),
    "ZeRO-3": (2, 4, 1, 3),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    """The hidden states of the worker's teacher on some rows of the toy language."""
    folder = tmp_path_factory.mktemp("cache")
    toy_model(64, 2, seed=2).save_pretrained(folder / "teacher")
    TOKENIZER.save_pretrained(folder / "teacher")
    cached(folder / "teacher", folder / "cache")
    return str(folder / "cache")


def cases_of(split: str, folder: Path, cache: str) -> dict[str, dict]:
    processes, *settings = SPLITS[split]
    out, log = folder / f"{split}.json", folder / "log"
    if processes == 1:
        one_process(write_steps, out, cache, *settings, log=log).join()
        assert out.exists(), log.read_text()[-3000:]
    else:
        # Gloo may abort a process that is already done, so that what was written counts.
        with contextlib.suppress(ChildFailedError):
            two_processes(write_steps, out, cache, *settings, logs=log)
        assert out.exists(), [file.read_text()[-3000:] for file in log.rglob("stderr.log")]
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def one_batch(tmp_path_factory, cache) -> dict[str, dict]:
    return cases_of("one batch", tmp_path_factory.mktemp("one_batch"), cache)


@pytest.mark.slow
@pytest.mark.parametrize("split", [name for name in SPLITS if name != "one batch"])
def test_steps_and_evaluation_are_those_of_one_batch(split, one_batch, cache, tmp_path):
    cases = cases_of(split, tmp_path, cache)
    processes, _, _, stage = SPLITS[split]
    for name, case in cases.items():
        expected = one_batch[name]
        assert case["num_processes"] == processes, name
        assert (case["distributed_type"] == "DEEPSPEED") == (stage > 0), name
        assert {*case["is_sharded"].values()} == {stage == 3}, name
        assert len(case["steps"]) == len(expected["steps"])
        for number, (step, whole) in enumerate(zip(case["steps"], expected["steps"], strict=True)):
            for figure in ("loss", "grad_norm", "cross_entropy", "divergence"):
                where = name, number, figure
                assert step[figure] == pytest.approx(whole[figure], rel=1e-5), where
        for figure in LOSSES if "evaluation" in case else ():
            found, whole = (of["evaluation"][f"eval_{figure}"] for of in (case, expected))
            assert found == pytest.approx(whole, rel=1e-5), figure
