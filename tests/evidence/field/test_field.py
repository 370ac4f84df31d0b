"""FIELD.md: what is known of the field's losses by hand, and the page as it is written."""

import json
from pathlib import Path

import pytest

from evidence.field.implementations import IMPLEMENTATIONS
from evidence.field.page import write_page
from evidence.field.words import in_words, sum_in_words
from kd_lab.check import check_loss

ROOT = Path(__file__).parents[3]


def named(what: str) -> str:
    (one,) = (one for one in IMPLEMENTATIONS if one.what == what)
    return check_loss(one.function, one.form, **one.how).named.words


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("DistillationTrainer, β 1 (default)", "reverse_kl"),
        ("GKDTrainer, β 0.1", "jensen_shannon (beta 0.1)"),
        ("SDFT and SDPO, sampled token", "reverse_kl"),
        (
            "SDFT and SDPO, student's top k with a tail",
            "reverse_kl on the student's top k, the tail in one bucket",
        ),
        ("ServerDistillationTrainer, β 0", "forward_kl, the tail in one bucket"),
        ("fused linear JSD, β 1, no hard loss", "reverse_kl"),
        ("loss_mode abs, as a loss", "2 total_variation"),
        ("reward and distillation together", "nothing: the expected gradient is zero"),
        ("distillation alone", "reverse_kl"),
    ],
)
def test_what_a_loss_of_the_field_optimises(what, name):
    assert named(what) == name


def test_names_are_the_field_s_own():
    parts = [
        {"name": "jensen_shannon", "settings": {"beta": 0.1}, "coefficient": 2.0},
        {"name": "skew_forward_kl", "settings": {"alpha": 0.1}, "coefficient": -1.0},
    ]
    assert sum_in_words(parts) == "2 × generalised JSD (β 0.1) minus skew forward KL (α 0.1)"
    assert in_words("reverse_kl, truncated") == "reverse KL, truncated"


def test_each_family_and_at_least_fourteen_losses_are_there():
    assert {one.form for one in IMPLEMENTATIONS} == {"logits", "topk", "tokens", "advantage"}
    assert len(IMPLEMENTATIONS) >= 14
    assert len({one.function for one in IMPLEMENTATIONS}) >= 14


def test_the_page_is_what_the_results_say():
    found = json.loads((ROOT / "assets/results/field.json").read_text())
    assert (ROOT / "FIELD.md").read_text() == write_page(ROOT / "assets/results")
    measured = [(entry["project"], entry["what"]) for entry in found["implementations"]]
    assert measured == [(one.project, one.what) for one in IMPLEMENTATIONS]
