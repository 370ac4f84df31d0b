"""Right losses pass; each fault that people have met is named."""

import pytest

from kd_lab.check import assert_optimises, check_loss
from tests.helpers.changed_losses import FAULTS, RIGHT


@pytest.mark.parametrize("case", RIGHT.values(), ids=RIGHT)
def test_a_right_loss_passes(case):
    assert_optimises(case.function, case.expected, **case.how)


@pytest.mark.parametrize("case", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named(case):
    how = {name: value for name, value in case.how.items() if name != "expected"}
    verdict = check_loss(case.function, **how)
    said = [verdict.line, *(finding.words for finding in verdict.findings)]
    assert any(case.expected in words for words in said), said
    if (expected := case.how.get("expected")) is not None:
        assert verdict.objections(expected)
