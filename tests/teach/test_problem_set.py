"""The problem set: our answers pass, an empty sheet is skipped, and a wrong answer fails."""

from collections import Counter
from pathlib import Path

import pytest

from teach import check_problems

TEACH = Path(check_problems.__file__).parent
CHECKS = {name: check for name, check in vars(check_problems).items() if name.startswith("test_")}


def outcomes(path: Path) -> dict[str, str]:
    """Of each check on a file of answers."""
    answers = check_problems.Answers(path)
    found = {}
    for name, check in CHECKS.items():
        try:
            check(answers)
            found[name] = "passed"
        except pytest.skip.Exception:
            found[name] = "skipped"
        except AssertionError:
            found[name] = "failed"
    return found


def test_our_answers_pass_and_a_sheet_without_answers_is_skipped():
    assert Counter(outcomes(TEACH / "answers.py").values()) == {"passed": 9}
    assert Counter(outcomes(TEACH / "problems.py").values()) == {"skipped": 9}


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("torch.where(p > 0, terms, 0)", "terms", 1),
        ("q * (log_ratio - (q * log_ratio).sum())", "q * log_ratio", 2),
        ("temperature**2 * ", "", 3),
        ("total.sum() / sum(int(mask.sum()) for mask in trained)", "total.mean()", 4),
        ("[label != -100 for label in labels]", "[label > 0 for label in labels]", 4),
        ("r.exp() - 1 - r", "(-r).exp() - 1 + r", 5),
        ("r**2 / 2", "(-r).detach() * q_logp + 7", 5),
        ("return -r,", "return -r - (-r).detach() + (-r * q_logp.exp()).sum().detach(),", 5),
        ("q_top = q[ids]", "q_top = q[: len(ids)]", 6),
        ("z[..., :vocabulary].log_softmax(-1)", "z.log_softmax(-1)[..., :vocabulary]", 7),
        ("(p_first * second)", "(q_first * second)", 8),
        (" - mean**2", "", 9),
        ("weights * (widths**2 + means**2)", "weights * (widths.mean() ** 2 + means**2)", 9),
    ],
)
def test_a_wrong_answer_fails(tmp_path, right, wrong, problem):
    text = (TEACH / "answers.py").read_text(encoding="utf-8")
    assert right in text
    sheet = tmp_path / "mine.py"
    sheet.write_text(text.replace(right, wrong), encoding="utf-8")
    failed = [name for name, outcome in outcomes(sheet).items() if outcome == "failed"]
    assert [name.split("_")[1] for name in failed] == [str(problem)]


def test_a_failure_says_how_far_an_answer_is_off(tmp_path):
    text = (TEACH / "answers.py").read_text(encoding="utf-8")
    sheet = tmp_path / "mine.py"
    sheet.write_text(text.replace("r.exp() - 1 - r", "r.exp() - 1 + r"), encoding="utf-8")
    told = r"the mean of k3 is D\(q‖p\): (?s:.*)Expected -?\d.* but got -?\d"
    with pytest.raises(AssertionError, match=told):
        check_problems.test_5_estimates(check_problems.Answers(sheet))
