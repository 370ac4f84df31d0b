"""The policy-gradient trainer on a tiny teacher and student: its gradient, its rollouts, a run."""

import math

import pytest
import torch
from torch import Tensor

from kd_lab.rollout.sampling import Sampling
from kd_lab.rollout.transformers_engine import write_answers
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.policy_gradient_distil import PolicyGradientDistilTrainer
from kd_lab.trainers.seq_distil import answered_row
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

VOCABULARY = len(TOKENIZER)


def make_trainer(
    folder, student, teacher, rows: int = 8, **settings
) -> PolicyGradientDistilTrainer:
    config = DistilConfig(
        output_dir=str(folder),
        **{
            "policy_gradient": True,
            "divergence": "reverse_kl",
            "prefixes": "student",
            "alpha": 1.0,
            "max_new_tokens": 6,
            "per_device_train_batch_size": 8,
            "save_strategy": "no",
            "logging_steps": 1,
            "use_cpu": True,
            "disable_tqdm": True,
            **settings,
        },
    )
    return PolicyGradientDistilTrainer(
        student, teacher, config, train_dataset=toy_rows(rows), processing_class=TOKENIZER
    )


def doubles() -> tuple:
    return toy_model(32, 1, seed=1).double(), toy_model(64, 2, seed=2).double()


def logp_of(model, batch) -> Tensor:
    """Log-probabilities [B, T - 1, V] of the next tokens, from whole logits."""
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[:, :-1, :VOCABULARY].log_softmax(-1)


def written_logp(logp: Tensor, batch) -> Tensor:
    return logp.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)


def gradients_of(model) -> dict[str, Tensor]:
    found = {name: part.grad.clone() for name, part in model.named_parameters()}
    model.zero_grad()
    return found


def first_batch(trainer) -> tuple[dict, Tensor]:
    """A step's one micro-batch, and the number of its trained tokens."""
    rows = iter(trainer.get_train_dataloader())
    (batch,), count = trainer.get_batch_samples(rows, 1, torch.device("cpu"))
    trainer._micro_batch = 1
    trainer.model.train()
    return batch, count


@pytest.mark.parametrize("student_share", [1.0, 0.5])
@pytest.mark.parametrize("teacher_mix", [0.0, 0.4])
def test_gradient_against_dense_logits_in_float64(tmp_path, teacher_mix, student_share):
    """A loop over answers, with the returns summed one by one; the dataset's rows as ever."""
    student, teacher = doubles()
    prefixes, alpha = ("student", 1.0) if student_share == 1 else ("dataset", 0.3)
    trainer = make_trainer(
        tmp_path, student, teacher, rows=16, teacher_mix=teacher_mix, prefixes=prefixes,
        alpha=alpha, student_share=student_share, per_device_train_batch_size=16,
    )  # fmt: skip
    batch, count = first_batch(trainer)
    trainer.compute_loss(student, batch, num_items_in_batch=count).backward()
    found = gradients_of(student)

    log_q, log_p = logp_of(student, batch), logp_of(teacher, batch).detach()
    single = (log_q.exp() * (log_q - log_p)).sum(-1)  # [B, T - 1]
    q, p = written_logp(log_q, batch), written_logp(log_p, batch)
    loss, rows_of_student = 0, batch["by_student"].tolist()
    assert len(set(rows_of_student)) == (1 if student_share == 1 else 2)
    for row, by_student in enumerate(rows_of_student):
        places = (batch["labels"][row, 1:] != -100).nonzero().squeeze(-1).tolist()
        for i, t in enumerate(places):
            if not by_student:
                loss = loss + alpha * single[row, t] - (1 - alpha) * q[row, t]
                continue
            later = [(p[row, u] - q[row, u]).item() for u in places[i + 1 :]]
            factor = 1 / (1 - teacher_mix + teacher_mix * (p[row, t] - q[row, t]).exp().item())
            mean_reward = sum(later) / len(later) if later else 0
            loss = loss + single[row, t] - factor * mean_reward * q[row, t]
    (loss / count).backward()
    for name, gradient in gradients_of(student).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-10)


def test_a_rollout_serves_its_updates_and_is_weighed_by_the_ratio(tmp_path):
    student, teacher = doubles()
    trainer = make_trainer(
        tmp_path, student, teacher, rows=32, updates_per_rollout=2, teacher_mix=0.0
    )
    rows = iter(trainer.get_train_dataloader())

    def step(number: int) -> tuple[dict, dict[str, Tensor]]:
        trainer.state.global_step = number
        (batch,), count = trainer.get_batch_samples(rows, 1, torch.device("cpu"))
        trainer._micro_batch = 1
        student.train()
        trainer.compute_loss(student, batch, num_items_in_batch=count).backward()
        return batch, gradients_of(student)

    first, _ = step(0)
    writer = written_logp(logp_of(student, first).detach(), first)
    with torch.no_grad():
        for part in student.parameters():
            part += 0.05 * torch.randn_like(part)
    second, found = step(1)
    assert second is first
    log_q, log_p = logp_of(student, first), logp_of(teacher, first).detach()
    q, p = written_logp(log_q, first), written_logp(log_p, first)
    mask = first["labels"][:, 1:] != -100
    single = (log_q.exp() * (log_q - log_p)).sum(-1)
    rewards = torch.where(mask, p - q, 0).detach()
    later = rewards.flip(1).cumsum(1).flip(1) - rewards
    mean = later / (mask.flip(1).cumsum(1).flip(1) - 1).clamp(min=1)
    ratio = (q - writer).exp()
    assert ((ratio < 0.8) | (ratio > 1.2))[mask].any()  # or clipping would not be seen
    surrogate = torch.minimum(ratio * mean, ratio.clamp(0.8, 1.2) * mean)  # PPO's
    ((single - surrogate) * mask).sum().div(mask.sum()).backward()
    for name, gradient in gradients_of(student).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9)
    third, _ = step(2)
    assert third is not first


def sequence_reverse_kl(student, teacher, collate) -> float:
    """Nats an answer, by fresh samples of the student."""
    rows = list(toy_rows(400, seed=7))
    answers = write_answers(
        student, [row["input_ids"][: row["prompt_length"]] for row in rows], Sampling(6),
        eos_token_ids={TOKENIZER.eos_token_id}, seed=3, batch_size=200, vocab_size=VOCABULARY,
    )  # fmt: skip
    batch = collate([answered_row(*both) for both in zip(rows, answers, strict=True)])
    with torch.no_grad():
        q, p = (written_logp(logp_of(model, batch), batch) for model in (student, teacher))
    return ((q - p) * (batch["labels"][:, 1:] != -100)).sum().item() / len(rows)


@pytest.mark.slow
@pytest.mark.parametrize("updates_per_rollout", [1, 2])
def test_a_run_lowers_the_reverse_kl_of_whole_answers(tmp_path, updates_per_rollout):
    student, teacher = toy_model(32, 1, seed=1), toy_model(32, 1, seed=2)
    trainer = make_trainer(
        tmp_path, student, teacher, rows=64, max_steps=30, learning_rate=5e-3,
        per_device_train_batch_size=8, gradient_accumulation_steps=2,
        updates_per_rollout=updates_per_rollout,
    )  # fmt: skip
    before = sequence_reverse_kl(student, teacher, trainer.data_collator)
    trainer.train()
    logged = [entry["divergence"] for entry in trainer.state.log_history if "divergence" in entry]
    assert len(logged) == 30
    assert all(map(math.isfinite, logged))
    assert sum(logged[-5:]) < 0.8 * sum(logged[:5])
    assert sequence_reverse_kl(student, teacher, trainer.data_collator) < 0.75 * before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"divergence": "forward_kl"}, "set divergence to reverse_kl, not forward_kl"),
        ({"distil_temperature": 2.0}, "set distil_temperature to 1"),
        ({"sampling_temperature": 0.0}, "set sampling_temperature to 1"),
        ({"top_p": 0.9}, "set top_p to 1"),
        ({"top_k": 5}, "set top_k to 0"),
        ({"prefixes": "dataset"}, "set prefixes: student"),
        ({"alpha": 0.5}, "alpha is 0.5, but no row is left"),
        ({"teacher_mix": 1.0}, r"teacher_mix must lie in \[0, 1\)"),
        ({"reward_clip": -1.0}, "reward_clip must be positive"),
        ({"updates_per_rollout": 0}, "updates_per_rollout must be at least 1"),
        ({"updates_per_rollout": 4, "save_steps": 10}, "set it to a multiple of them"),
        ({"ratio_clip": 1.0}, r"ratio_clip must lie in \(0, 1\)"),
    ],
)
def test_settings_that_cannot_be_run(tmp_path, change, message):
    settings = {
        "policy_gradient": True,
        "divergence": "reverse_kl",
        "prefixes": "student",
        "alpha": 1.0,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        DistilConfig(output_dir=str(tmp_path), **settings)


def test_it_needs_a_teacher_in_memory(tmp_path):
    with pytest.raises(ValueError, match="give teacher_model_name_or_path"):
        make_trainer(tmp_path, toy_model(), None, alpha=0.0, prefixes="dataset", student_share=0.5)
