"""The lesson's arms differ in their loss alone, and the loss is the project's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ttest_rel

from book import lesson
from book.lesson import Arm, draw_plane, less, loss_at_answers, p_values, table, train_arm
from evidence.field.students import training
from evidence.field.students.losses import STUDENT_LOSSES
from kd_lab.vocabulary import IGNORED

ARMS = {
    "SFT": {"precision": np.array([0.1, 0.2, 0.4]), "coverage": np.array([0.5, 0.6, 0.7])},
    "forward KL": {"precision": np.array([0.2, 0.3, 0.6]), "coverage": np.array([0.4, 0.6, 0.9])},
    "reverse KL": {"precision": np.array([0.4, 0.6, 0.7]), "coverage": np.array([0.3, 0.2, 0.2])},
}
MOVED = ("precision", "forward_kl", "reverse_kl")  # by a few steps, which cover no answer yet


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(training, "STEPS", 3)
    monkeypatch.setattr(training, "START_STEPS", 2)
    training.starts.cache_clear()
    yield
    training.starts.cache_clear()


def logits_and_labels():
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 6, generator=draw, dtype=torch.float64)
    labels = torch.randint(6, (3, 4), generator=draw)
    labels[1, 2:] = IGNORED
    return student, teacher, labels


def test_without_the_divergence_the_loss_is_sft():
    student, teacher, labels = logits_and_labels()
    found = loss_at_answers(student, teacher, labels, "reverse_kl", alpha=0, temperature=2)
    due = F.cross_entropy(student.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(found, due)


def test_the_loss_at_a_temperature_is_its_sum():
    student, teacher, labels = logits_and_labels()
    q, p = (logits.div(2).softmax(-1) for logits in (student, teacher))
    forward = (p * (p / q).log()).sum(-1)[labels != IGNORED].mean()
    at_target = student.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    cross_entropy = -at_target[labels != IGNORED].mean()
    found = loss_at_answers(student, teacher, labels, "forward_kl", alpha=0.25, temperature=2)
    torch.testing.assert_close(found, 0.25 * 4 * forward + 0.75 * cross_entropy)


def test_an_arm_is_trained_as_the_students_of_the_field_are(few_steps):
    controls = {loss.key: loss for loss in STUDENT_LOSSES}
    for key, arm in {
        "sft": Arm("forward_kl", alpha=0),
        "dataset_forward_kl": Arm("forward_kl", alpha=1),
        "dataset_reverse_kl": Arm("reverse_kl", alpha=1),
    }.items():
        due = training.measure(training.train(controls[key]).distributions())
        found = train_arm(arm)
        for measure in MOVED:
            np.testing.assert_allclose(found[measure], due[measure], rtol=1e-4)


def test_arms_share_all_but_the_loss(few_steps):
    arm = Arm("reverse_kl", alpha=1)
    one, again = train_arm(arm), train_arm(arm)
    sft, unasked = (train_arm(replace(arm, alpha=0, divergence=name)) for name in
                    ("reverse_kl", "forward_kl"))  # fmt: skip
    hot, fast = train_arm(replace(arm, temperature=2)), train_arm(arm, rate=2 * training.SLOW)
    for measure in MOVED:
        np.testing.assert_array_equal(one[measure], again[measure])
        np.testing.assert_array_equal(sft[measure], unasked[measure])
        for other in (sft, hot, fast, lesson.start()):
            assert not np.array_equal(one[measure], other[measure])


def test_differences_are_taken_seed_by_seed():
    difference = less(ARMS["reverse KL"], ARMS["SFT"], "precision")
    np.testing.assert_allclose(difference["values"], [0.3, 0.4, 0.3])
    half = 4.303 * np.std([0.3, 0.4, 0.3], ddof=1) / 3**0.5
    assert difference["high"] - difference["mean"] == pytest.approx(half, rel=1e-3)


def test_every_comparison_counts_in_the_adjustment():
    compared = {name: arm for name, arm in ARMS.items() if name != "SFT"}
    found = p_values(compared, ARMS["SFT"])
    assert len(found) == 4
    alone = {
        (name, measure): ttest_rel(arm[measure], ARMS["SFT"][measure]).pvalue
        for name, arm in compared.items()
        for measure in lesson.MEASURES
    }
    smallest = min(alone, key=alone.__getitem__)
    assert found[smallest] == pytest.approx(4 * alone[smallest])
    assert all(found[pair] >= alone[pair] for pair in found)


def test_the_table_has_a_line_an_arm_and_no_difference_of_the_control_to_itself():
    lines = table(ARMS, control=ARMS["SFT"]).splitlines()
    assert len(lines) == 2 + len(ARMS)
    assert {line.count("|") for line in lines} == {6}
    assert lines[2] == "| SFT | 0.233 | 0.600 |  |  |"
    assert lines[4].startswith("| reverse KL | 0.567 | 0.233 | +0.333 (")


def test_the_picture_has_a_mark_for_each_arm():
    figure = draw_plane(ARMS, paths=[("SFT", "reverse KL")])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(ARMS)
    (ax,) = figure.axes
    (path,) = ax.lines
    np.testing.assert_allclose(path.get_xydata(), [[0.6, 0.7 / 3], [0.7 / 3, 1.7 / 3]])
    assert figure.png()[:4] == b"\x89PNG"
