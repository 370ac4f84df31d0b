"""The trainers' losses, rows and safeguards, on a small random teacher and student."""

import math
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from kd_lab.divergences import get_divergence
from kd_lab.rollout.sampling import Completion
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.row_order import LengthGroupedByEpoch
from kd_lab.trainers.seq_distil import SeqDistilTrainer, answered_row
from kd_lab.trainers.token_distil import TokenDistilTrainer
from kd_lab.vocabulary import IGNORED
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

TOKENS = len(TOKENIZER)  # the rows of a head above are padding


@pytest.fixture
def config(tmp_path: Path):
    def make(**settings: object) -> DistilConfig:
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 8,
            "max_steps": 1,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "max_new_tokens": 8,
        }
        return DistilConfig(**{**defaults, **settings})

    return make


def trained(config: DistilConfig, trainer_class: type = TokenDistilTrainer, **others: object):
    settings = {
        "model": toy_model(32, 1, seed=1),
        "teacher": toy_model(64, 2, seed=2),
        "train_dataset": toy_rows(8),
        **others,
    }
    trainer = trainer_class(args=config, processing_class=TOKENIZER, **settings)
    trainer.train()
    return trainer


def logged(trainer: TokenDistilTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def dense_loss(rows, divergence: str, alpha: float, temperature: float) -> float:
    """The same mean in float64, row by row without padding, over whole logits."""
    student, teacher = toy_model(32, 1, seed=1).double(), toy_model(64, 2, seed=2).double()
    total, tokens = 0.0, 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        labels = torch.tensor(row["labels"])[1:]
        where = labels != IGNORED
        with torch.no_grad():
            q, p = (m(ids).logits[0, :-1][where][:, :TOKENS] for m in (student, teacher))
        compared = get_divergence(divergence)(
            (p / temperature).log_softmax(-1), (q / temperature).log_softmax(-1)
        )
        sft = torch.nn.functional.cross_entropy(q, labels[where], reduction="none")
        total += float((alpha * temperature**2 * compared + (1 - alpha) * sft).sum())
        tokens += int(where.sum())
    return total / tokens


@pytest.mark.parametrize(
    ("divergence", "alpha", "temperature"),
    [
        ("forward_kl", 0.5, 1.0),
        ("reverse_kl", 0.8, 2.0),
        ("adaptive_kl", 1.0, 1.0),
        ("jensen_shannon", 0.5, 1.0),
        ("skew_forward_kl", 0.5, 1.0),
        ("skew_reverse_kl", 0.5, 1.0),
        ("total_variation", 0.5, 1.0),
        ("forward_kl", 0.0, 1.0),
    ],
)
def test_the_loss_is_the_dense_one(config, divergence, alpha, temperature):
    trainer = trained(
        config(divergence=divergence, alpha=alpha, distil_temperature=temperature, chunk_size=5)
    )
    expected = dense_loss(toy_rows(8), divergence, alpha, temperature)
    assert logged(trainer, "loss")[0] == pytest.approx(expected, rel=2e-5)


def test_heads_of_different_sizes_are_cut_to_the_tokens(config):
    student = toy_model(32, 1, seed=1)
    teacher = toy_model(64, 2, seed=2)
    teacher.resize_token_embeddings(704)  # its new rows would draw probability, were they counted
    trainer = trained(config(), model=student, teacher=teacher)
    expected = dense_loss(toy_rows(8), "forward_kl", 0.5, 1.0)
    assert logged(trainer, "loss")[0] == pytest.approx(expected, rel=2e-5)


def test_evaluation_logs_both_directions(config):
    rows = toy_rows(6, seed=5)
    trainer = trained(
        config(eval_strategy="steps", eval_steps=1, learning_rate=0.0), eval_dataset=rows
    )
    for name in ("forward_kl", "reverse_kl"):
        expected = dense_loss(rows, name, 1.0, 1.0)
        assert logged(trainer, f"eval_{name}")[0] == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("how", [{"packing": True, "max_length": 128}, {"padding_free": True}])
def test_rows_that_are_joined_give_the_loss_of_padded_rows(config, how):
    padded, joined = trained(config()), trained(config(**how))
    assert (len(joined.train_dataset) < 8) == ("packing" in how)
    for entry in ("loss", "grad_norm"):
        assert logged(joined, entry)[0] == pytest.approx(logged(padded, entry)[0], rel=1e-5)


def test_activation_checkpointing_changes_nothing(config):
    plain, saving = trained(config()), trained(config(activation_checkpointing=True))
    assert logged(saving, "grad_norm") == pytest.approx(logged(plain, "grad_norm"), rel=1e-6)


def test_a_lora_student_trains_its_adapters_alone(config):
    from peft import LoraConfig

    student = toy_model(32, 1, seed=1)
    before = {name: weight.clone() for name, weight in student.named_parameters()}
    trainer = trained(
        config(max_steps=20, learning_rate=1e-2, logging_steps=5),
        model=student,
        train_dataset=toy_rows(40),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"]),
    )
    losses = logged(trainer, "loss")
    assert losses[-1] < losses[0]
    base = {
        k.replace("base_layer.", ""): v
        for k, v in trainer.model.base_model.model.named_parameters()
    }
    for name, weight in before.items():
        assert torch.equal(base[name], weight), name


def test_bfloat16_autocast_keeps_the_weights_in_float32(config):
    trainer = trained(config(bf16=True))
    assert next(trainer.model.parameters()).dtype == torch.float32
    assert logged(trainer, "loss")[0] == pytest.approx(
        logged(trained(config()), "loss")[0], rel=2e-2
    )


def test_a_teacher_keeps_its_dtype_and_gets_no_gradient(config):
    teacher = toy_model(64, 2, seed=2).to(torch.bfloat16)
    trained(config(), teacher=teacher)
    assert {p.dtype for p in teacher.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert not teacher.training


def test_float16_is_for_teachers_alone(config):
    with pytest.raises(ValueError, match=r"the student's dtype is float16, .*--dtype float32"):
        trained(config(), model=toy_model(32, 1, seed=1).half())
    trainer = trained(config(), teacher=toy_model(64, 2, seed=2).half())
    expected = dense_loss(toy_rows(8), "forward_kl", 0.5, 1.0)
    assert logged(trainer, "loss")[0] == pytest.approx(expected, rel=1e-3)


def test_without_a_teacher_only_sft_is_possible(config):
    with pytest.raises(ValueError, match=r"alpha is 0\.5, so a teacher is needed"):
        trained(config(), teacher=None)
    trainer = trained(config(alpha=0.0), teacher=None)
    expected = dense_loss(toy_rows(8), "forward_kl", 0.0, 1.0)
    assert logged(trainer, "loss")[0] == pytest.approx(expected, rel=2e-5)
    assert not logged(trainer, "divergence")


def test_capped_logits_are_refused(config):
    student = toy_model()
    student.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="final_logit_softcapping to 30"):
        trained(config(), model=student)


# ---- answers written anew


def test_an_answer_replaces_the_row_after_its_prompt():
    row = {"input_ids": [5, 6, 7, 8], "labels": [IGNORED, IGNORED, 7, 8], "prompt_length": 2}
    assert answered_row(row, Completion([9, 3, 4], finished=True)) == {
        "input_ids": [5, 6, 9, 3, 4],
        "labels": [IGNORED, IGNORED, 9, 3, 4],
        "prompt_length": 2,
    }


def batches_of(trainer: SeqDistilTrainer, step: int = 0) -> list[dict[str, torch.Tensor]]:
    trainer.state.global_step = step
    loader = iter(trainer.get_train_dataloader())
    return trainer.get_batch_samples(loader, 1, torch.device("cpu"))[0]


@pytest.mark.parametrize("writer", ["student", "teacher"])
def test_greedy_answers_are_those_of_generate(config, writer):
    trainer = trained(
        config(prefixes=writer, alpha=1.0, sampling_temperature=0.0, learning_rate=0.0),
        SeqDistilTrainer,
    )
    (batch,) = batches_of(trainer)
    model = trainer.model if writer == "student" else trainer.teacher.model
    for ids, labels, mask, length in zip(
        *(batch[k] for k in ("input_ids", "labels", "attention_mask", "prompt_length")), strict=True
    ):
        end = int(mask.sum())
        written = model.generate(
            ids[:length][None], max_new_tokens=8, do_sample=False,
            bad_words_ids=[[i] for i in range(TOKENS, 640)],
        )[0]  # fmt: skip
        assert ids[:end].tolist() == written.tolist()
        assert labels[length:end].tolist() == written[length:].tolist()
        assert (labels[:length] == IGNORED).all()
        assert (labels[end:] == IGNORED).all()


def test_the_students_share_is_tossed_for_each_row_and_step(config):
    rows = toy_rows(200)
    trainer = trained(
        config(student_share=0.3, per_device_train_batch_size=200),
        SeqDistilTrainer,
        train_dataset=rows,
    )
    given = {tuple(row) for row in rows["input_ids"]}

    def rewritten(step: int) -> int:
        (batch,) = batches_of(trainer, step)
        kept = [
            tuple(ids[:n].tolist()) in given
            for ids, n in zip(batch["input_ids"], batch["attention_mask"].sum(1), strict=True)
        ]
        return 200 - sum(kept)

    first, again, second = rewritten(1), rewritten(1), rewritten(2)
    assert first == again
    spread = 4 * math.sqrt(200 * 0.3 * 0.7)
    for count in (first, second):
        assert abs(count - 60) < spread


def test_stored_answers_are_not_written_again(config):
    trainer = trained(config(prefixes="teacher"), SeqDistilTrainer, answers_are_stored=True)
    (batch,) = batches_of(trainer)
    given = {tuple(row) for row in toy_rows(8)["input_ids"]}
    lengths = batch["attention_mask"].sum(1)
    assert {
        tuple(i[:n].tolist()) for i, n in zip(batch["input_ids"], lengths, strict=True)
    } == given


def test_the_students_prefixes_need_a_teacher_that_is_a_model(config, tmp_path):
    with pytest.raises(ValueError, match="needs a teacher that is a model"):
        trained(config(prefixes="teacher", alpha=0.0), SeqDistilTrainer, teacher=None)


# ---- order, interruption, and a step that goes wrong


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone():
    lengths = [
        int(n) for n in torch.randint(5, 50, (100,), generator=torch.Generator().manual_seed(0))
    ]
    sampler = LengthGroupedByEpoch(8, lengths, seed=3)
    torch.manual_seed(1)
    first = list(sampler)
    torch.manual_seed(2)
    assert list(sampler) == first
    assert sorted(first) == list(range(100))
    sampler.epoch = 1
    assert list(sampler) != first


@pytest.mark.parametrize(
    ("trainer_class", "settings"),
    [
        (TokenDistilTrainer, {"divergence": "reverse_kl", "gradient_accumulation_steps": 2}),
        (
            SeqDistilTrainer,
            {"prefixes": "student", "divergence": "jensen_shannon", "alpha": 1.0},
        ),
        (SeqDistilTrainer, {"prefixes": "teacher", "student_share": 0.5}),
    ],
)
@pytest.mark.parametrize("stop", [2, 5])  # in the first epoch, and in the second
def test_a_resumed_run_ends_at_the_same_weights(config, trainer_class, settings, stop):
    settings = {
        "max_steps": 7, "save_strategy": "steps", "save_steps": stop,
        "per_device_train_batch_size": 4, "learning_rate": 1e-2, **settings,
    }  # fmt: skip
    rows = toy_rows(8 * settings.get("gradient_accumulation_steps", 1) * 2)
    whole = trained(config(**settings), trainer_class, train_dataset=rows)
    again = trainer_class(
        toy_model(32, 1, seed=1), toy_model(64, 2, seed=2), config(**settings),
        train_dataset=rows, processing_class=TOKENIZER,
    )  # fmt: skip
    torch.manual_seed(99)  # the state that the interrupted process had is gone
    again.train(resume_from_checkpoint=str(Path(whole.args.output_dir) / f"checkpoint-{stop}"))
    for (name, a), b in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(config, tmp_path):
    settings = {"max_steps": 50, "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e36,
                "max_grad_norm": 0.0, "optim": "sgd", "save_total_limit": 2}  # fmt: skip
    with pytest.raises(FloatingPointError, match=r"step \d+, micro-batch 1: .*checkpoints are as"):
        trained(config(**settings))
    assert list((tmp_path / "run").glob("checkpoint-*/model.safetensors"))


@pytest.mark.parametrize(
    ("steps", "why", "mend"),
    [
        (0, "the gradient's norm is nan", "its rows, and the student's weights and dtype"),
        (9, "the gradient's norm is nan", "try a lower learning_rate or max_grad_norm and resume"),
        (9, "the teacher's logits are NaN", "its rows, and the teacher's weights and dtype"),
    ],
)
def test_what_no_step_has_caused_is_not_mended_by_smaller_ones(steps, why, mend):
    trainer = Mock(state=Mock(global_step=steps), _micro_batch=1)
    told = TokenDistilTrainer._stopped(trainer, why)
    assert told.startswith(f"step {steps + 1}, micro-batch 1: {why}; ")
    assert told.endswith(mend)
