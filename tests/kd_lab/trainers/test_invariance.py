"""A step's loss and gradient do not depend on what the step is split into; see splits.py.

The cases are those of one_step_worker.py: the three trainers, epochs that fill no last batch, the
order by length, joined rows, LoRA, stored teachers, a process without trained tokens, and the
figures of an evaluation.
"""

import pytest

from tests.hardening.splits import ONE_BATCH, SPLITS, difference, steps_of, teacher_caches

TESTED = ("four micro-batches", "two processes", "ZeRO-2", "ZeRO-3")


@pytest.fixture(scope="module")
def caches(tmp_path_factory) -> dict[str, str]:
    return teacher_caches(tmp_path_factory.mktemp("caches"))


@pytest.fixture(scope="module")
def one_batch(tmp_path_factory, caches) -> dict[str, dict]:
    return steps_of(ONE_BATCH, tmp_path_factory.mktemp("whole") / "one", caches)


@pytest.mark.slow
@pytest.mark.parametrize("split", TESTED)
def test_steps_and_evaluation_are_those_of_one_batch(split, one_batch, caches, tmp_path):
    cases = steps_of(SPLITS[split], tmp_path / "split", caches)
    assert cases.keys() == one_batch.keys()
    for name, case in cases.items():
        assert not difference(SPLITS[split], case, one_batch[name]), name
