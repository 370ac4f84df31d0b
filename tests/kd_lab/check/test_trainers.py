"""A trainer's real step is named: ours, and TRL's."""

import pytest
from trl import SFTConfig, SFTTrainer

from kd_lab.check import assert_optimises, check_loss
from kd_lab.data.examples import training_examples
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.seq_distil import SeqDistilTrainer
from kd_lab.trainers.token_distil import TokenDistilTrainer

QUIET = {"use_cpu": True, "disable_tqdm": True, "report_to": [], "bf16": False}


def ours(trainer_class, **settings):
    def build(student, teacher, tokenizer, conversations, output_dir):
        rows = training_examples(conversations, tokenizer, max_length=None).rows
        args = DistilConfig(
            output_dir=output_dir, per_device_train_batch_size=4, gradient_accumulation_steps=2,
            **QUIET, **settings,
        )  # fmt: skip
        return trainer_class(student, teacher, args, train_dataset=rows, processing_class=tokenizer)

    return build


STUDENT = {"prefixes": "student", "max_new_tokens": 12, "alpha": 1.0}


@pytest.mark.parametrize(
    ("build", "expected", "settings"),
    [
        (ours(TokenDistilTrainer, divergence="reverse_kl", alpha=1.0), "reverse_kl", {}),
        (ours(TokenDistilTrainer, alpha=0.0), "cross_entropy", {}),
        (
            ours(TokenDistilTrainer, divergence="adaptive_kl", alpha=1.0),
            "adaptive_kl",
            {"mu": 0.5},
        ),
        (ours(TokenDistilTrainer, alpha=1.0, distil_temperature=2.0), "forward_kl", {"T": 2.0}),
        (
            ours(SeqDistilTrainer, divergence="jensen_shannon", **STUDENT),
            "jensen_shannon",
            {"beta": 0.5},
        ),
    ],
    ids=["token_rkl", "sft", "adaptive", "warm", "gkd"],
)
def test_our_trainers_optimise_what_they_say(build, expected, settings):
    verdict = assert_optimises(build, expected, form="trainer", expected_settings=settings)
    assert any("it takes the same step" in finding.words for finding in verdict.findings)


def test_shares_are_measured():
    build = ours(TokenDistilTrainer, divergence="reverse_kl", alpha=0.3)
    verdict = check_loss(build, "trainer")
    shares = {candidate.name: c for candidate, c in verdict.named.parts}
    assert shares == pytest.approx({"reverse_kl": 0.3, "cross_entropy": 0.7}, abs=1e-4)


def plain_sft(student, teacher, tokenizer, conversations, output_dir):
    args = SFTConfig(output_dir=output_dir, per_device_train_batch_size=8, **QUIET)
    return SFTTrainer(student, args, train_dataset=conversations, processing_class=tokenizer)


def test_trl_s_sft_trains_prompts_unless_told_otherwise():
    verdict = check_loss(plain_sft, "trainer")
    assert verdict.named.words == "cross_entropy"
    assert any("the prompts too" in fault.words for fault in verdict.faults)


def test_what_is_no_trainer_is_refused():
    with pytest.raises(ValueError, match="a trainer comes of build"):
        check_loss(lambda *_: 3, "trainer")
