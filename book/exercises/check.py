"""An answer in a notebook, checked: right, or how it is wrong.

    check("01.1", reverse_kl_gradient)    # 01.1: right

The checks themselves have a file for each notebook.
"""

from pkgutil import resolve_name
from typing import Any, get_type_hints

from book.exercises.expected import Unwritten, of_kind, written

# An exercise, by notebook and number -> the check that raises where an answer is wrong.
CHECKS = {
    "01.1": "two_divergences:reverse_kl_gradient",
    "01.3": "two_divergences:costs_of_the_modes",
    "01.4": "two_divergences:where_it_jumps",
    "01.5": "two_divergences:reverse_kl_of_torch",
    "02.1": "fitting_gaussians:best_gaussian",
    "02.2": "fitting_gaussians:variance_when_parted",
    "02.3": "fitting_gaussians:steps_of_others",
    "02.4": "fitting_gaussians:when_equals_arrive",
    "03.2": "convergence_and_rank:distance_at_the_start",
    "04.1": "token_and_sequence:divergence_of_answers",
    "04.4": "token_and_sequence:two_estimates",
    "05.1": "heads_and_tails:pushes",
    "05.3": "heads_and_tails:warm_limit",
    "06.3": "policy_gradient:break_even",
    "07.1": "loss_at_scale:memory_of_the_loss",
    "07.3": "loss_at_scale:left_out_by_the_bucket",
    "07.4": "loss_at_scale:words_for_the_same_bytes",
    "08.1": "running_it:fits",
    "08.2": "running_it:largest_teacher",
    "08.3": "running_it:what_the_cache_saves",
    "09.3": "estimators_and_tails:mended_truncation",
}


def verdict(exercise: str, answer: Any) -> str:
    """``right``, ``not written yet``, or how the answer is wrong.

    Args:
        exercise: notebook and number, such as ``01.1``.
        answer: the reader's function or numbers; an ellipsis or None where nothing is written.
    Raises:
        ValueError: no exercise of this name has a check.
    """
    if exercise not in CHECKS:
        raise ValueError(f"exercise {exercise} has no check; those are {', '.join(CHECKS)}")
    check_answer = resolve_name(f"book.exercises.{CHECKS[exercise]}")
    try:
        check_answer(of_kind(written(answer), get_type_hints(check_answer)["answer"]))
    except (Unwritten, NotImplementedError):
        return "not written yet"
    except AssertionError as wrong:
        return f"not right. {wrong}"
    except Exception as failure:  # of the reader's function, whatever it is
        return f"not right. It raises {type(failure).__name__}: {failure}"
    return "right"


def check(exercise: str, answer: Any) -> None:
    """Print the verdict on an answer, after the exercise's name."""
    print(f"{exercise}: {verdict(exercise, answer)}")
