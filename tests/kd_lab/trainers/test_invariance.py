"""A step's loss and gradient do not depend on what the step is split into; see splits.py.

The cases are those of one_step_worker.py: the three trainers, epochs that fill no last batch, the
order by length, joined rows, LoRA, stored teachers, a process without trained tokens, and the
figures of an evaluation.
"""

import pytest

from tests.hardening.splits import SPLITS, WHOLE, difference, steps_of

TESTED = ("four micro-batches", "two processes", "ZeRO-2", "ZeRO-3")


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> dict[str, dict]:
    return steps_of({name: SPLITS[name] for name in (WHOLE, *TESTED)}, tmp_path_factory.mktemp("s"))


@pytest.mark.slow
@pytest.mark.parametrize("split", TESTED)
def test_steps_and_evaluation_are_those_of_one_batch(split, steps):
    assert steps[split].keys() == steps[WHOLE].keys()
    for name, case in steps[split].items():
        assert not difference(SPLITS[split], case, steps[WHOLE][name]), name
