"""The page that a learner reads: it is short, it runs, and its step is the trainer's own."""

import math
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from kd_lab.data.examples import training_examples
from kd_lab.data.toy_language import conversations
from kd_lab.divergences import get_divergence
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.token_distil import TokenDistilTrainer
from toy import distil_on_one_page as page


def test_it_is_one_page_and_defines_no_class():
    text = Path(page.__file__).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert "class " not in text


@pytest.mark.parametrize(("divergence", "alpha"), [("forward_kl", 1.0), ("reverse_kl", 0.5)])
def test_its_first_step_is_the_trainers(tmp_path, divergence, alpha):
    talks = conversations(16, seed=3)
    teacher, student = page.small_model(64, 2, seed=1), page.small_model(32, 1, seed=2)
    batch = page.as_batch(
        [page.prompt_ids(talk["messages"][0]["content"]) for talk in talks],
        [page.answer_ids(talk["messages"][1]["content"]) for talk in talks],
    )
    loss = page.distillation_loss(student, teacher, batch, get_divergence(divergence), alpha)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in student.parameters()])

    trainer = TokenDistilTrainer(
        page.small_model(32, 1, seed=2),
        teacher,
        DistilConfig(
            output_dir=str(tmp_path),
            divergence=divergence,
            alpha=alpha,
            per_device_train_batch_size=16,
            max_steps=1,
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=training_examples(Dataset.from_list(talks), page.tokenizer).rows,
        processing_class=page.tokenizer,
    )
    trainer.train()
    [logged] = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    assert loss.item() == pytest.approx(logged["loss"], rel=1e-5)
    assert norm.item() == pytest.approx(logged["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("prefixes", ["dataset", "teacher", "student"])
def test_every_prefix_source_runs(monkeypatch, capsys, prefixes):
    monkeypatch.setattr(sys, "argv", ["page", "--quick", "--prefixes", prefixes])
    page.main()
    told = capsys.readouterr().out
    assert told.count("precision") == 3
    losses = [float(line.split()[-1]) for line in told.splitlines() if " loss " in line]
    assert len(losses) == 12
    assert all(map(math.isfinite, losses))
