"""Every command has wrong values to try, and each way to fall short is seen."""

from collections import Counter

from tests.hardening.bad_values import options, wrong_values
from tests.hardening.command_lines import outcome
from tests.hardening.commands import Said


def test_every_command_with_options_has_wrong_values():
    tried = Counter(option.command for option in options() if wrong_values(option))
    assert tried.keys() == {
        "data", "questions", "generate", "cache", "train", "evaluate", "demo", "plan",
        "check",
    }  # fmt: skip
    assert tried["train"] > 100


def test_a_refusal_falls_short_in_these_ways():
    def judged(code: int | None, err: str, loaded: bool = False) -> str:
        return outcome(Said(code, "", err, loaded), ("alpha",))

    right = "kd-lab: error: alpha must lie in [0, 1]\n"
    assert judged(2, right) == "held"
    assert judged(2, "kd-lab train: importing torch\n" + right) == "held"
    assert judged(2, right, loaded=True) == "late"
    assert judged(0, "") == "accepted"
    assert judged(None, "") == "hangs"
    assert judged(1, "Traceback (most recent call last):\n" + right) == "traceback"
    assert judged(1, "kd-lab: error: a fault of KD Lab: alpha\n") == "traceback"
    assert judged(2, right + "and more\n") == "several lines"
    assert judged(2, "kd-lab: error: beta\n") == "not named"
