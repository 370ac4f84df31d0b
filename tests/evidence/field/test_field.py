"""FIELD.md: what is known of the field's losses by hand, and the page as it is written."""

import json
import re
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


def test_an_end_near_the_teacher_is_not_called_the_teacher():
    """A bucket and an even share leave the tail's shape open: a small KL there is chance."""
    page = write_page(ROOT / "assets/results")
    found = json.loads((ROOT / "assets/results/field.json").read_text())["implementations"]
    nats = {
        one["what"]: max(max(end["forward_kl"], end["reverse_kl"]) for end in one["ends"])
        for one in found
    }
    open_tails = {
        "SDFT and SDPO, student's top k with a tail",
        "ServerDistillationTrainer, β 0",
        "missing_probability_handling: uniform",
    }
    for what, most in nats.items():
        (row,) = re.findall(rf"^\|[^|]*\| {re.escape(what)}(?:; `| \().*$", page, flags=re.M)
        assert ("| yes |" in row) == (most < 1e-3), row
        assert (f"| but for the tail's shape, up to {most:.2g} " in row) == (what in open_tails)


def test_k3_lies_between_the_two_kls():
    losses = json.loads((ROOT / "assets/results/field_students.json").read_text())["losses"]
    of = {loss["key"]: loss["measures"] for loss in losses if loss["prefixes"] == "student"}
    for measure in "coverage", "forward_kl", "reverse_kl":
        ends = sorted(of[key][measure]["mean"] for key in ("forward_kl", "reverse_kl"))
        assert ends[0] < of["k3"][measure]["mean"] < ends[1]
    k3, forward = (of[key]["precision"] for key in ("k3", "forward_kl"))
    assert k3["low"] < forward["mean"] < k3["high"]


def test_the_page_is_what_the_results_say():
    found = json.loads((ROOT / "assets/results/field.json").read_text())
    assert (ROOT / "FIELD.md").read_text() == write_page(ROOT / "assets/results")
    measured = [(entry["project"], entry["what"]) for entry in found["implementations"]]
    assert measured == [(one.project, one.what) for one in IMPLEMENTATIONS]
