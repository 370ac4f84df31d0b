"""Evaluation during training: means over tokens, and "best" is the smallest of each figure."""

import pytest
from accelerate import Accelerator

from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.figures import FIGURES, LOSSES, TokenMeans
from kd_lab.trainers.token_distil import TokenDistilTrainer
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows


def trainer_of(tmp_path, teacher=True, **settings) -> TokenDistilTrainer:
    config = DistilConfig(
        **{
            "output_dir": str(tmp_path / "run"), "use_cpu": True, "disable_tqdm": True,
            "save_strategy": "no", **settings,
        }
    )  # fmt: skip
    return TokenDistilTrainer(
        toy_model(32, 1, seed=1), toy_model(64, 2, seed=2) if teacher else None, config,
        train_dataset=toy_rows(8), eval_dataset=toy_rows(11, seed=5), processing_class=TOKENIZER,
    )  # fmt: skip


def test_the_means_are_over_all_tokens_and_a_figure_that_is_missing_is_left_out():
    means = TokenMeans()
    means.add(3, cross_entropy=6.0, divergence=float("nan"))
    means.add(0, cross_entropy=0.0, divergence=float("nan"))
    means.add(1, cross_entropy=4.0, divergence=float("nan"))
    assert means.take(Accelerator(cpu=True)) == {"cross_entropy": 2.5}
    assert means.is_empty
    with pytest.raises(ValueError, match=r"unknown figures \['entropy'\]"):
        means.add(1, entropy=1.0)


def test_evaluation_is_the_same_for_every_batch_size(tmp_path):
    """11 rows of unlike lengths: a mean over batches is another number for each size."""
    found = {
        size: trainer_of(
            tmp_path, per_device_eval_batch_size=size, alpha=0.3, distil_temperature=2.0
        ).evaluate()
        for size in (1, 3, 40)
    }
    whole = found[40]
    for name in LOSSES:
        for size in (1, 3):
            assert found[size][f"eval_{name}"] == pytest.approx(whole[f"eval_{name}"], rel=1e-6)
    parts = 0.3 * 4 * whole["eval_divergence"] + 0.7 * whole["eval_cross_entropy"]
    assert whole["eval_loss"] == pytest.approx(parts, rel=1e-7)


def test_without_a_teacher_the_loss_of_evaluation_is_the_cross_entropy(tmp_path):
    found = trainer_of(tmp_path, teacher=False, alpha=0.0).evaluate()
    assert found["eval_loss"] == found["eval_cross_entropy"]
    assert not {f"eval_{name}" for name in FIGURES} - {"eval_cross_entropy"} & {*found}


@pytest.mark.parametrize("figure", [*LOSSES, *(f"eval_{name}" for name in LOSSES)])
def test_the_best_of_every_figure_is_the_smallest(figure, tmp_path):
    settings = {"output_dir": str(tmp_path), "use_cpu": True, "metric_for_best_model": figure}
    assert DistilConfig(**settings).greater_is_better is False
    assert DistilConfig(**settings, greater_is_better=True).greater_is_better is True


def test_the_best_model_is_kept(tmp_path):
    """Values of a few steps, the smallest of which is not always the last."""
    trainer = trainer_of(
        tmp_path, alpha=0.0, max_steps=3, learning_rate=1e-2, metric_for_best_model="forward_kl",
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
        load_best_model_at_end=True,
    )  # fmt: skip
    trainer.train()
    values = [e["eval_forward_kl"] for e in trainer.state.log_history if "eval_forward_kl" in e]
    assert trainer.state.best_metric == min(values)
    assert trainer.state.best_global_step == 1 + values.index(min(values))


def test_an_unknown_best_figure_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"metric_for_best_model is accuracy, .*loss, divergence"):
        trainer_of(tmp_path, metric_for_best_model="accuracy")
    with pytest.raises(ValueError, match=r"is reverse_kl, .*measures: loss, cross_entropy\)"):
        trainer_of(tmp_path, teacher=False, alpha=0.0, metric_for_best_model="reverse_kl")
