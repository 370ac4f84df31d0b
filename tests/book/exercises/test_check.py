"""Every solution is right by its check, nothing written is no mistake, and mistakes are named."""

import inspect
import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from book.exercises import solutions
from book.exercises.check import CHECKS, check, verdict
from book.exercises.solutions import SOLUTIONS
from kd_lab.divergences import get_divergence
from toy.best_gaussian import best_gaussian
from toy.mixture_fit import POST_TARGET

PAGE = Path(__file__).parents[3] / "site" / "solutions.md"


@cache
def answer(exercise: str):
    """A function, or the numbers that the solution computes."""
    solution = SOLUTIONS[exercise]
    return solution if inspect.signature(solution).parameters else solution()


@pytest.mark.parametrize("exercise", CHECKS)
def test_a_solution_is_right(exercise):
    assert verdict(exercise, answer(exercise)) == "right"


@pytest.mark.parametrize("exercise", CHECKS)
def test_what_is_not_written_is_no_mistake(exercise):
    assert verdict(exercise, ...) == "not written yet"
    assert verdict(exercise, (..., ...)) == "not written yet"
    if callable(answer(exercise)):
        assert verdict(exercise, lambda *arguments: None) == "not written yet"


@pytest.mark.parametrize(
    ("exercise", "wrong", "how"),
    [
        ("01.1", lambda p, z: z.softmax(-1) - p, r"got \[0\.1652, .* \(that is forward KL's\)"),
        ("01.1", lambda p, z: z.softmax(-1) * (z.softmax(-1) / p).log(), r"\(the sum over all"),
        ("01.1", lambda p, z: p.sum(), r"expected shape \[3\], got \[\]"),
        ("01.3", (0.1, 2.303), r"on the left: expected 0\.1054, got 0\.1"),
        ("01.3", (2.303, 0.105), r"\(that is the cost on the right\)"),
        ("01.4", 0.5, r"at β = 0\.5 the best Gaussian has σ = 0\.50: it has already chosen"),
        ("01.4", 0.1, r"it still covers"),
        ("01.4", 7, r"β = 7 is not between 0 and 1"),
        (
            "01.5",
            lambda t, s: nn.functional.kl_div(s, t, log_target=True, reduction="sum"),
            r"\(that is forward KL\)",
        ),
        (
            "01.5",
            lambda t, s: nn.functional.kl_div(t, s, log_target=True, reduction="batchmean"),
            r"\(that is reverse KL over the number of words\)",
        ),
        ("02.1", lambda w, m, s: (torch.tensor(0.0), (w * s).sum()), r"\(that is the width of one"),
        ("02.1", lambda w, m, s: ((w * m).sum(), (w * (s**2 + m**2)).sum() ** 0.5), r"square is"),
        (
            "02.1",
            lambda w, m, s: (w @ m, (s.mean() ** 2 + w @ m**2 - (w @ m) ** 2) ** 0.5),
            r"widths 0\.5 and 1\.5, the width: .*take the mean of their squares\)",
        ),
        ("02.2", lambda d, sigma: (sigma**2 + d**2) ** 0.5, r"\(that is its standard deviation\)"),
        ("02.3", (74, 75), r"adaptive_kl: expected 125, got 75"),
        ("02.4", 75, r"the two means are 0 apart, at 1\.112 nats: expected inf, got 75"),
        ("02.4", math.nan, r"expected inf, got nan"),
        ("02.4", -math.inf, r"expected inf, got -inf"),
        ("03.2", lambda rank: 64 * rank, r"\(r, where its root belongs\)"),
        ("04.1", lambda p1, p2, q1, q2: (p1 * (p1 / q1).log()).sum(), r"the first word's alone\)"),
        ("04.4", (0, 0.604), r"of the sum: expected 0\.3017, got 0\.604"),
        ("05.1", lambda q, r: (q - r, q * math.log(r)), r"forward KL: expected -0\.1, got -0\.4"),
        ("05.1", lambda q, r: (q * math.log(r), q - q / r), r"\(that is the other divergence's\)"),
        ("05.3", lambda t, s: (t - s).var(correction=0), r"\(half of it is right\)"),
        ("05.3", lambda t, s: (t - s).square().mean() / 2, r"\(the mean of d is still in it\)"),
        ("06.3", lambda v1, v2, b: (v1 - v2) / b, r"\(the bias has its square there\)"),
        (
            "07.1",
            lambda chunk, words: 2 * chunk * words * 4 / 2**20,
            r"\(that is two whole tiles\)",
        ),
        ("07.3", lambda p, q, k: (p[k:] * (p[k:] / q[k:]).log()).sum(), r"not renormalised\)"),
        ("07.4", 1_000, r"k = 1000 takes 6,004 bytes a token, and the hidden state 7,168"),
        ("08.1", (True, True), r"with ddp it takes \d+ GB of each GPU's 40"),
        ("08.2", (32, 7), r"billions of parameters; the 72B fits: expected 72, got 32"),
        ("08.2", (72, 10), r"times the hours: expected \d\.\d+, got 10"),
        ("08.3", (16, 9.3), r"\(all tokens are counted there, not the trained ones\)"),
        ("09.3", lambda p, q: (p * (p / q).log()).sum(), r"\(the tail is empty there\)"),
        (
            "09.3",
            lambda p, q: (p - q).square().sum(),
            r"\(there is no truncated forward KL in it\)",
        ),
        ("05.3", lambda t, s: t[99], r"It raises IndexError: index 99"),
        # another kind of answer than was asked for
        ("01.1", 0.5, r"expected a function, got 0\.5$"),
        ("05.3", (1, 2), r"expected a function, got \(1, 2\)$"),
        ("06.3", 12.0, r"expected a function, got 12\.0$"),
        ("01.3", 2.303, r"expected a pair of numbers, got 2\.303$"),
        ("01.3", (1, 2, 3), r"expected a pair of numbers, got \(1, 2, 3\)$"),
        ("01.3", max, r"expected a pair of numbers, got a function$"),
        ("02.3", (74, "125"), r"expected a number, got '125'$"),
        (
            "05.1",
            lambda q, r: q - q / r,
            r"q = 0\.1, r = 0\.5: expected a pair of numbers, got 0?-",
        ),
        ("02.1", lambda w, m, s: w @ m, r"and 0\.5: expected a pair of numbers, got tensor"),
        ("01.4", (0.22, 0.24), r"expected a number, got \(0\.22, 0\.24\)$"),
        ("02.4", "never", r"expected a number, got 'never'$"),
        ("07.4", 10**400, r"expected a number, got 10{5,}\.\.\.0+$"),
        ("07.4", 1_194.5, r"k is a whole number, and 1194\.5 is none$"),
        ("07.4", math.inf, r"k is a whole number, and inf is none$"),
        ("08.1", (0.3, 1), r"with ddp: expected True or False, got 0\.3$"),
        # numbers that four digits do not tell apart
        ("01.3", (0.105, 2.3333), r"on the right: expected 2\.303, got 2\.333"),
        ("01.4", 0.2400001, r"at β = 0\.2400001 the best Gaussian"),
        ("01.4", 1.0000001, r"β = 1\.0000001 is not between 0 and 1"),
        ("02.3", (74.0001, 125), r"jensen_shannon: expected 74, got 74\.0001$"),
        ("06.3", lambda v1, v2, b: (v1 - v2) / b**2 + 1e-3, r"expected 12, got 12\.001$"),
        (
            "01.1",
            lambda p, z: solutions.reverse_kl_gradient(p, z) + 1e-6,
            r"expected \[0\.14454, .*\], got \[0\.14455, ",
        ),
    ],
)
def test_a_wrong_answer_is_told_how_it_is_wrong(exercise, wrong, how):
    found = verdict(exercise, wrong)
    assert found.startswith("not right. ")
    assert re.search(how, found), found


@pytest.mark.parametrize(
    "term",
    [lambda p, q: -(1 - p.sum()) * (1 - q.sum()).log(), lambda p, q: (q**2 / p).sum() / 2],
    ids=["a bucket", "half of chi-squared"],
)
def test_another_term_that_mends_the_truncation_is_right_too(term):
    assert verdict("09.3", lambda p, q: (p * (p / q).log()).sum() + term(p, q)) == "right"


def test_every_check_has_a_solution_and_refuses_some_answer():
    assert SOLUTIONS.keys() == CHECKS.keys()
    (cases,) = (mark.args[1] for mark in test_a_wrong_answer_is_told_how_it_is_wrong.pytestmark)
    assert {case[0] for case in cases} == CHECKS.keys()


def test_the_verdict_is_printed_after_the_name(capsys):
    check("02.2", lambda d, sigma: sigma**2 + d**2)
    assert capsys.readouterr().out == "02.2: right\n"
    with pytest.raises(ValueError, match=r"exercise 9\.9 has no check; those are 01\.1, "):
        check("9.9", ...)


def test_the_numbers_of_the_page_are_those_of_the_solutions():
    left, right = answer("01.3")
    assert f"{left:.3f} {right:.3f}" == "0.105 2.303"
    covering, choosing = (
        best_gaussian(POST_TARGET, get_divergence("jensen_shannon", beta=beta)).sigma
        for beta in (0.22, 0.24)
    )
    assert covering > 3
    assert choosing < 0.51
    weights, means, widths = torch.tensor([[0.9, 0.1], [-3, 3], [0.5, 0.5]])
    mean, width = solutions.best_gaussian(weights, means, widths)
    assert f"{mean:.1f} {width**2:.2f} {width:.2f}" == "-2.4 3.49 1.87"
    assert answer("02.3") == (74, 125)
    of_log_ratio, of_sum = answer("04.4")
    assert f"{of_log_ratio} {of_sum:.3f}" == "0.0 0.302"
    low = (math.log(2) + math.log(2 / 3)) / 2
    assert f"{low:.3f} {low + math.log(3):.3f} {math.log(3):.3f}" == "0.144 1.242 1.099"
    assert [f"{10 * 0.01**0.5:.1f}", f"{0.1**0.5:.2f}"] == ["1.0", "0.32"]
    assert [round(solutions.distance_at_the_start(rank)) for rank in (2, 64)] == [91, 512]
    assert round(solutions.memory_of_the_loss(512, 151_936)) == 445
    assert answer("07.4") == 1_194
    assert round(answer("08.3")[1]) == 7
    text = PAGE.read_text(encoding="utf-8").replace("−", "-")
    for words in (
        "0.105 nats", "2.303 nats", "0.22 and 0.24", "= -2.4", "= 3.49", "σ = 1.87",
        "74; AKL takes 125", "0.144 and 1.242", "variance 0.302", "91 for rank 2, 512 for rank 64",
        "445 MiB", "k = 1,194", "16 GB of memory", "7 GB for 20,000", "about seven times",
    ):  # fmt: skip
        assert words in text, words
    prose = re.sub(r"`[^`]*`|\$[^$]*\$", "", text.partition("## The code")[0])
    known = {
        "0.9", "0.1", "0.5", "0.105", "2.303", "0.22", "0.24", "2.4", "3.49", "1.87", "0.01",
        "0.144", "1.242", "1.099", "0.302", "1.0", "0.32", "1.5",
    }  # fmt: skip
    assert set(re.findall(r"\d+\.\d+", prose)) == known
