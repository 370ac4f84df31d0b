"""Students of the field's losses: the language is exact, and what is measured of a student."""

import json

import pytest
import torch

from evidence.field.students import language, results, training
from evidence.field.students.language import INTENTS, LANGUAGE, PROBABILITIES, TEACHER, Students
from evidence.field.students.losses import STUDENT_LOSSES

TEACHERS = TEACHER.logits.double().log_softmax(-1)


def test_the_teacher_says_the_language_and_a_little_of_everything():
    each = TEACHERS[LANGUAGE.states].gather(-1, LANGUAGE.tokens[..., None]).squeeze(-1)
    answers = torch.where(LANGUAGE.mask, each, 0).sum(-1).exp().view(INTENTS, -1)
    assert torch.allclose(answers, PROBABILITIES.expand(INTENTS, -1), rtol=0.04)
    of_teacher = training.of_teacher()
    assert of_teacher["precision"] == pytest.approx(float(answers.sum(-1).mean()))
    assert of_teacher["forward_kl"] == of_teacher["reverse_kl"] == 0
    assert of_teacher["coverage"] == pytest.approx(1)


def test_exact_sums_are_those_of_sampled_answers(monkeypatch):
    """D(q‖p) per token, and the length, of a student's answers as it writes them."""
    monkeypatch.setattr(language, "LONGEST", training.CUT)
    students = Students(1)
    with torch.no_grad():
        students.table += 0.7 * TEACHER.logits[:INTENTS].mean(0)
    exact = training.measure(students.distributions())
    written = students.write(torch.arange(INTENTS).repeat(3_000), torch.Generator().manual_seed(0))
    q = students(written.states).detach().double().log_softmax(-1)
    p = written.teacher_logits.double().log_softmax(-1)
    of_token = (q.exp() * (q - p)).sum(-1)[written.mask]
    assert float(of_token.mean()) == pytest.approx(exact["reverse_kl"][0], rel=0.03)


def test_each_loss_has_a_control_with_its_prefixes():
    by_key = {loss.key: loss for loss in STUDENT_LOSSES}
    assert len(by_key) == len(STUDENT_LOSSES)
    for loss in STUDENT_LOSSES:
        assert by_key[loss.control].prefixes == loss.prefixes
        assert not by_key[loss.control].who


@pytest.mark.parametrize("loss", STUDENT_LOSSES, ids=lambda loss: loss.key)
def test_a_step_of_each_loss_is_finite(loss, monkeypatch):
    monkeypatch.setattr(training, "STEPS", 1)
    monkeypatch.setattr(training, "START_STEPS", 1)
    assert training.train(loss).table.isfinite().all()


def test_a_run_is_kept_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "sft.json"
    measures = {name: [0.5] * training.SEEDS for name in results.MEASURES}
    run = results._run(path, lambda: measures)
    assert results._run(path, dict) == run
    for wrong in (
        {"measures": {**measures, "coverage": [float("nan")] * training.SEEDS}},
        {"measures": {**measures, "coverage": [0.5]}},
        {"measures": {"coverage": 0.5}},
        {"measures": 1},
        {"seconds": "1"},
    ):
        path.write_text(json.dumps({**run, **wrong}))
        with pytest.raises(ValueError, match=r"sft.json is damaged \(.*which trains sft anew"):
            results._run(path, dict)
    path.write_text(json.dumps(run)[:99])
    with pytest.raises(ValueError, match=r"sft.json is damaged \(.*which trains sft anew"):
        results._run(path, dict)
