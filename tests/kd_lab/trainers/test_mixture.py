"""The student's rows of a mixture: a share that adapts, and a divergence of their own."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from kd_lab.divergences import skew_forward_kl, skew_reverse_kl
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.mixture_arguments import adapted_share
from kd_lab.trainers.seq_distil import SeqDistilTrainer
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

VOCABULARY = len(TOKENIZER)
PAIR = {
    "prefixes": "teacher", "student_share": 0.5, "alpha": 1.0, "divergence": "skew_forward_kl",
    "student_divergence": "skew_reverse_kl", "student_divergence_settings": {"alpha": 0.3},
}  # fmt: skip


def rows_as_the_student_begins(count: int = 6) -> Dataset:
    """Rows whose next token is the likeliest of the untrained student: training can but lose."""
    student, rows = toy_model(32, 1, seed=1), toy_rows(count, seed=5)
    labels = []
    for row in rows:
        with torch.no_grad():
            logits = student(torch.tensor([row["input_ids"]])).logits[0, :, :VOCABULARY]
        likeliest = [-100, *logits.argmax(-1).tolist()[:-1]]
        pairs = zip(likeliest, row["labels"], strict=True)
        labels.append([-100 if label == -100 else token for token, label in pairs])
    return rows.remove_columns("labels").add_column("labels", labels)


def trainer_of(folder: Path, **settings: object) -> SeqDistilTrainer:
    words = {
        "output_dir": str(folder), "use_cpu": True, "per_device_train_batch_size": 8,
        "max_new_tokens": 6, "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1,
    }  # fmt: skip
    return SeqDistilTrainer(
        toy_model(32, 1, seed=1), toy_model(64, 2, seed=2), DistilConfig(**(words | settings)),
        train_dataset=toy_rows(16), eval_dataset=rows_as_the_student_begins(),
        processing_class=TOKENIZER,
    )  # fmt: skip


# ---- a share that adapts


def test_the_share_goes_up_where_an_evaluation_is_worse():
    """By hand: 1.00 begins; 0.98 is better; 1.08 is under its tolerance; 1.10 and 1.35 are not."""
    losses = [1.0, 0.98, 1.08, 1.1, 1.15, 1.35]
    shares = [adapted_share(0.2, 0.5, 0.1, losses[:n]) for n in range(len(losses) + 1)]
    assert shares == [0.2, 0.2, 0.2, 0.2, 0.7, 0.7, 1.0]


@given(st.lists(st.floats(0, 5), max_size=12), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_share_never_falls_and_never_leaves_its_range(losses, start, step, tolerance):
    shares = [adapted_share(start, step, tolerance, losses[:n]) for n in range(len(losses) + 1)]
    assert shares == sorted(shares)
    assert shares[0] == start
    assert shares[-1] <= 1
    if losses == sorted(losses, reverse=True) and tolerance > 1e-6:
        assert shares[-1] == start


ADAPTIVE = {
    "student_share": 0.0, "student_share_step": 0.25, "student_share_tolerance": 0.0, "alpha": 1.0,
    "divergence": "skew_reverse_kl", "max_steps": 6, "learning_rate": 1e-2,
    "lr_scheduler_type": "constant", "eval_strategy": "steps", "eval_steps": 1,
    "eval_on_start": True, "save_strategy": "steps", "save_steps": 3,
    "per_device_train_batch_size": 4,
}  # fmt: skip


def test_an_adaptive_share_is_logged_and_resumed_to_the_bit(tmp_path):
    whole = trainer_of(tmp_path, **ADAPTIVE)
    whole.train()
    logged = [entry["student_share"] for entry in whole.state.log_history if "grad_norm" in entry]
    assert logged[0] == 0.0
    assert logged[2] < logged[-1]  # it is not what the run began with, nor was it before the stop
    again = trainer_of(tmp_path, **ADAPTIVE)
    torch.manual_seed(99)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    history = [entry["student_share"] for entry in again.state.log_history if "grad_norm" in entry]
    assert history == logged
    for (name, a), b in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_share_of_now_is_the_share_of_rows_that_are_tossed(tmp_path):
    trainer = trainer_of(tmp_path, **ADAPTIVE)
    assert trainer._students_rows(200) == []

    def evaluated(step: int, loss: float) -> None:
        trainer.state.log_history.append({"step": step, "eval_cross_entropy": loss})

    evaluated(0, 1.0)
    evaluated(5, 1.5)
    evaluated(5, 1.5)  # as a resumed run logs it again
    assert 25 < len(trainer._students_rows(200)) < 75  # 50 and four deviations
    for step in (10, 15, 20):
        evaluated(step, step / 5)
    assert len(trainer._students_rows(200)) == 200


# ---- a divergence of its own


def test_the_students_rows_are_compared_by_their_own_divergence(tmp_path):
    """Row by row from whole logits, in float64."""
    trainer = trainer_of(tmp_path, gradient_accumulation_steps=2, **PAIR)
    student, teacher = trainer.model.double(), trainer.teacher.model.double()
    student.train()
    batches, count = trainer.get_batch_samples(
        iter(trainer.get_train_dataloader()), 2, torch.device("cpu")
    )
    expected, found, whose = torch.zeros((), dtype=torch.float64), 0.0, set()
    for batch in batches:
        loss = trainer.compute_loss(student, batch, num_items_in_batch=count)
        loss.backward()
        found += loss.item()
        for row, by_student in enumerate(batch["by_student"].tolist()):
            ids = batch["input_ids"][row, : int(batch["attention_mask"][row].sum())]
            trained = batch["labels"][row, 1 : len(ids)] != -100
            q, p = (
                model(ids[None]).logits[0, :-1][trained][:, :VOCABULARY].log_softmax(-1)
                for model in (student, teacher)
            )
            if by_student:
                compared = skew_reverse_kl(p.detach(), q, alpha=0.3)
            else:
                compared = skew_forward_kl(p.detach(), q)
            expected = expected + compared.sum() / count
            whose.add(by_student)
    assert whose == {True, False}
    assert found == pytest.approx(expected.item(), rel=1e-9)
    gradients = {name: part.grad.clone() for name, part in student.named_parameters()}
    student.zero_grad()
    expected.backward()
    for name, part in student.named_parameters():
        torch.testing.assert_close(gradients[name], part.grad, rtol=1e-8, atol=1e-10)


def test_one_divergence_for_both_is_the_plain_mixture(tmp_path):
    """As a student_divergence that is the same, in the same bits of rows, and nearly of losses."""
    same = PAIR | {"divergence": "skew_reverse_kl", "divergence_settings": {"alpha": 0.3}}
    plain = {k: v for k, v in same.items() if not k.startswith("student_d")}
    losses = []
    for settings in (same, plain):
        trainer = trainer_of(tmp_path / str(len(losses)), max_steps=1, **settings)
        assert trainer.args.point.short == "teacher, mixed λ=0.5 × skew RKL(0.3)"
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


# ---- refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student_share_step": 0.1}, "goes by the loss of evaluations, and eval_strategy is no"),
        ({"student_share_step": 2.0}, r"student_share_step must lie in \[0, 1\], not 2"),
        (
            {"student_share_step": 0.1, "prefixes": "student", "alpha": 1.0},
            "student_share_step would add to a share of 1",
        ),
        (
            {"student_share_tolerance": -1.0},
            "student_share_tolerance must be a number, and at least 0, not -1",
        ),
        ({"student_divergence": "reverse_kl"}, "its share is 0.0: set student_share between"),
        (
            {"student_divergence": "reverse_lk", "student_share": 0.5},
            "student_divergence: unknown divergence 'reverse_lk'; did you mean 'reverse_kl'",
        ),
        (
            {"student_divergence_settings": {"alpha": 0.1}, "student_share": 0.5},
            "student_divergence_settings need a student_divergence",
        ),
        (
            {
                "student_divergence": "forward_kl", "student_share": 0.5, "policy_gradient": True,
                "divergence": "reverse_kl", "alpha": 1.0,
            },
            "set student_divergence to None, not forward_kl",
        ),
    ],
)  # fmt: skip
def test_a_setting_without_a_mixture_is_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        DistilConfig(output_dir=str(tmp_path), use_cpu=True, **settings)
