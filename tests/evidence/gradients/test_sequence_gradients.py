"""The study's figures by hand, and the whole command on models that nobody trained."""

import json

import pytest
import torch

from evidence.gradients import sequence_gradients as study
from evidence.gradients.gradient_estimators import ESTIMATORS, Quality
from tests.helpers.little_tree import little_tree
from tests.helpers.toy_pair import TOKENIZER, toy_model


def test_estimator_figures_by_hand():
    """Two questions; the on-policy one is biased, and has a tenth of the variance."""

    def quality(variance: float, bias: float) -> Quality:
        return Quality(bias, 1 - bias, variance, {1: variance**0.5, 4: 1.0}, {1: 0.1, 4: 0.2})

    of_questions = [
        {name: quality(variance, 0.0) for name in ESTIMATORS}
        | {"on_policy": quality(variance / 10, 0.5)}
        for variance in (10.0, 1000.0)
    ]
    found = study.estimator_figures(of_questions)
    assert found.keys() == ESTIMATORS.keys()
    assert found["single_step"]["variance"]["mean"] == pytest.approx(100)
    assert found["on_policy"]["variance"]["mean"] == pytest.approx(10)
    ratio = found["on_policy"]["variance_ratio"]
    assert [ratio[key] for key in ("mean", "low", "high")] == pytest.approx([0.1] * 3)
    assert found["on_policy"]["error"]["4"]["mean"] == 1.0
    assert found["on_policy"]["cosine_of_mean"]["mean"] == 0.5
    # Equal errors at n: variance / n = variance / (10 n) + bias²
    assert found["on_policy"]["break_even"]["mean"] == pytest.approx(0.9 * 100 / 0.25)
    assert "break_even" not in found["single_step"]


def test_one_answers_spread_against_all_answers():
    tree = little_tree()
    (paths,) = tree.leaves()
    student, teacher = (
        logp.detach()[paths.nodes, paths.words] * paths.mask
        for logp in (tree.student_logp, tree.teacher_logp)
    )
    probability, kl = student.sum(1).exp(), tree.kl_by_depth().sum().item()
    estimates = {
        "log_ratio": (student - teacher).sum(1),
        "rao_blackwell": (tree.node_kl().detach()[paths.nodes] * paths.mask).sum(1),
    }
    found = study.one_answers_spread(tree, 20_000, seed=0)
    for name, estimate in estimates.items():
        mean = (probability @ estimate).item()
        assert mean == pytest.approx(kl, rel=1e-6)  # unbiased
        deviation = (probability @ (estimate - mean).square()).sqrt().item()
        assert found[name] == pytest.approx(deviation / kl, rel=0.1)


@pytest.fixture
def folder(tmp_path):
    """Of a study, with models that have learnt nothing; their trees have some 300 nodes."""
    names = ["teacher", *(f"{method}-1" for method in study.EXPOSURE_OF)]
    for seed, name in enumerate(names):
        model = toy_model(seed=seed, initializer_range=0.5)
        model.save_pretrained(tmp_path / name)
        TOKENIZER.save_pretrained(tmp_path / name)
    return tmp_path


@pytest.mark.slow
def test_the_whole_measurement(folder, monkeypatch):
    sizes = {"SEEDS": (1,), "QUESTIONS": 2, "EXPOSED": 40}
    for name, value in sizes.items():
        monkeypatch.setattr(study, name, value)
    for name, value in {"LENGTHS": (1, 2), "MASSES": (0.1, 1e-3), "SAMPLES": 8}.items():
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr(study, "AVERAGED", (1, 4))
    monkeypatch.setattr(study, "GRADIENTS_OF", ("sft",))
    threads = torch.get_num_threads()
    found = json.loads(json.dumps(study.measure(folder)))
    torch.set_num_threads(threads)
    assert found["settings"]["vocabulary"] == len(TOKENIZER)
    of_mass = found["enumeration"]["sft"]
    assert of_mass["0.001"]["nodes"]["mean"] > of_mass["0.1"]["nodes"]["mean"] >= 1
    assert of_mass["0.001"]["mass_cut"]["mean"] <= of_mass["0.1"]["mass_cut"]["mean"]
    assert of_mass["0.001"]["kl"]["mean"] >= of_mass["0.1"]["kl"]["mean"] > 0
    # For one word the single step is all there is; for two it is not.
    assert found["by_length"]["sft"]["1"]["bias"]["mean"] < 1e-4
    assert found["by_length"]["sft"]["2"]["bias"]["mean"] > 1e-4
    assert found["estimators"]["sft"]["single_step"]["bias"]["mean"] < 1e-3
    assert found["estimators"]["sft"]["on_policy"]["bias"]["mean"] > 1e-3
    assert tuple(found["exposure"]) == study.EXPOSURE_OF


def test_a_study_that_is_not_there_is_one_line(tmp_path):
    threads = torch.get_num_threads()
    with pytest.raises((ValueError, OSError), match="sft-1") as refusal:
        study.measure(tmp_path / "no")
    torch.set_num_threads(threads)
    assert "\n" not in str(refusal.value)
