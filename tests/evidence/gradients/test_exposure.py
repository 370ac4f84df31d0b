"""Where two distributions part, by position; against ``token_fidelity``, and by hand."""

import numpy as np
import pytest

from evidence.gradients.exposure import (
    ENOUGH,
    by_position,
    exposure_figures,
    kl_by_position,
    sayable,
)
from evidence.gradients.toy_pair import LONGEST, Pair
from kd_lab.evaluation.fidelity import token_fidelity
from kd_lab.states import answered_rows
from tests.helpers.toy_pair import TOKENIZER, toy_model

QUESTIONS = ["Could you wake Emma at two?", "Please wake Noah at one."]
ANSWERS = ["We will wake Emma at two.", "Of course, Noah is on the list for one."]


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def a_pair(teacher_seed: int = 1, copies: int = 1) -> Pair:
    models = [toy_model(seed=seed).eval() for seed in (0, teacher_seed)]
    references = [[*ids(answer), TOKENIZER.eos_token_id] for answer in ANSWERS]
    questions = QUESTIONS * copies
    return Pair(
        *models, TOKENIZER, len(TOKENIZER), [ids(q) for q in questions], questions,
        references * copies,
    )  # fmt: skip


def test_kl_by_position_against_the_means_of_token_fidelity():
    pair = a_pair()
    found = kl_by_position(pair, pair.references)
    assert found.mask.sum(1).tolist() == [len(answer) for answer in pair.references]
    rows = answered_rows(pair.prompts, pair.references)
    fidelity = token_fidelity(pair.student, pair.teacher, rows, vocab_size=pair.vocab_size)
    for direction in ("forward", "reverse"):
        kl = getattr(found, direction)
        assert not kl[~found.mask].any()
        expected = fidelity.means[f"{direction}_kl"] * fidelity.tokens
        np.testing.assert_allclose(kl.sum(1), expected, rtol=1e-5)


def test_positions_are_in_order():
    """The first word's distributions do not depend on the answer."""
    pair = a_pair()
    whole = kl_by_position(pair, pair.references)
    begun = kl_by_position(pair, [answer[:2] for answer in pair.references])
    np.testing.assert_allclose(begun.reverse[:, :2], whole.reverse[:, :2], rtol=1e-4)
    assert not begun.mask[:, 2:].any()


def test_by_position_means_over_the_answers_that_are_so_long():
    mask = np.ones((2 * ENOUGH, 3), bool)
    mask[:ENOUGH, 1] = False  # half of them have one word
    mask[:-1, 2] = False  # and one has three
    values = np.arange(2 * ENOUGH)[:, None] * mask * 1.0
    first, second = by_position(values, mask)
    assert first.mean == pytest.approx(ENOUGH - 0.5)
    assert first.n == 2 * ENOUGH
    assert second.mean == pytest.approx(1.5 * ENOUGH - 0.5)
    assert second.low < second.mean < second.high


def test_sayable():
    strayed = ids("We will wake Noah at two.")
    found = sayable(TOKENIZER, [QUESTIONS[0]] * 2, [ids(ANSWERS[0]), strayed])
    words = len(ids(ANSWERS[0]))
    assert found[0].tolist() == [True] * words + [False] * (LONGEST - words)
    assert found[1].tolist() == [True] * 4 + [False] * (LONGEST - 4)  # "We will wake" can go on


def test_a_student_that_is_its_teacher_parts_nowhere():
    found = exposure_figures([a_pair(teacher_seed=0, copies=ENOUGH)])
    for source in ("dataset", "teacher", "student"):
        for direction in ("forward", "reverse"):
            assert abs(found["sum"][source][direction]["mean"]) < 1e-6
    assert abs(found["surplus"]["reverse"]["mean"]) < 1e-6


def test_exposure_figures_of_two_seeds():
    pair = a_pair(copies=ENOUGH)
    found = exposure_figures([pair, pair])
    kl = kl_by_position(pair, pair.references)
    assert found["sum"]["dataset"]["forward"]["mean"] == pytest.approx(
        kl.forward.sum(1).mean(), rel=1e-5
    )
    assert found["sum"]["dataset"]["forward"]["n"] == 4 * ENOUGH
    first = found["by_position"]["student"]["reverse"][0]
    assert first["mean"] == pytest.approx(kl.reverse[:, 0].mean(), rel=1e-4)
    # Weights that nobody trained leave the grammar at once.
    assert found["strayed_by_position"][0]["mean"] == 0
    assert found["strayed_by_position"][1]["mean"] > 0.9
    own, given = (found["sum"][source]["reverse"]["mean"] for source in ("student", "dataset"))
    assert found["surplus"]["reverse"]["mean"] == pytest.approx(own - given, rel=1e-6)
    # What is inside the grammar, then, is little but first words.
    assert found["inside"]["mean"] == pytest.approx(first["mean"], rel=0.2)
