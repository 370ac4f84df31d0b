"""On-policy training whose answers a server writes, with the weights of each step.

The little server speaks vLLM's protocol; `make test-vllm` runs the same with vLLM, in both modes.
"""

import copy

import pytest

from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.policy_gradient_distil import PolicyGradientDistilTrainer
from kd_lab.trainers.seq_distil import SeqDistilTrainer
from kd_lab.trainers.vllm_writers import OUTBOX
from tests.helpers.kept_answers import kept_answers
from tests.helpers.little_server import LittleServer, serving
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows


@pytest.fixture
def little():
    with serving(LittleServer(toy_model(seed=9), copy.deepcopy(TOKENIZER))) as server:
        yield server


def trained(tmp_path, name, trainer_class=SeqDistilTrainer, student=None, **settings):
    """The trainer after three steps, and the token ids of every step."""
    config = DistilConfig(**{
        "output_dir": str(tmp_path / name), "per_device_train_batch_size": 4, "max_steps": 3,
        "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "max_new_tokens": 6,
        "prefixes": "student", "alpha": 1.0, "divergence": "reverse_kl", "logging_steps": 1,
        "learning_rate": 1e-2, "sampling_temperature": 0.0, "report_to": [], **settings,
    })  # fmt: skip
    width = 64 if config.alignment_weight else 32  # aligned, the student has a projection
    trainer = trainer_class(
        student or toy_model(seed=1), toy_model(width, seed=2), config, train_dataset=toy_rows(8),
        processing_class=TOKENIZER,
    )  # fmt: skip
    written = kept_answers(trainer)
    trainer.train()
    return trainer, written


def served(little):
    return {
        "rollout_engine": "vllm", "vllm_mode": "server", "vllm_server_base_url": little.address,
    }  # fmt: skip


def calls(little, path):
    return [body for asked, body in little.asked if asked == path]


def answers_asked(little):
    return [body for body in calls(little, "/v1/completions") if "stop_token_ids" in body]


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    "point",
    [
        {},
        {"prefixes": "dataset", "student_share": 0.5},
        {"prefixes": "teacher", "divergence": "forward_kl"},
        {"alignment_weight": 0.5},
    ],
)
def test_the_answers_and_losses_are_those_of_transformers(point, little, tmp_path):
    expected, answers = trained(tmp_path, "transformers", **point)
    found, served_answers = trained(tmp_path, "served", **point, **served(little))
    assert served_answers == answers
    assert losses(found) == losses(expected)
    assert answers[0] != answers[2]
    reloads = [body for body in calls(little, "/collective_rpc") if "kwargs" in body]
    steps = 1 if point.get("prefixes") == "teacher" else 3  # the teacher's weights never change
    assert len(reloads) == len(calls(little, "/reset_prefix_cache")) == steps
    assert not [*(tmp_path / "served" / OUTBOX).iterdir()]


def test_policy_gradient_sends_weights_at_each_rollout(little, tmp_path):
    settings = {"policy_gradient": True, "teacher_mix": 0.0, "updates_per_rollout": 3}
    settings["sampling_temperature"] = 1.0
    trainer, written = trained(
        tmp_path, "minillm", PolicyGradientDistilTrainer, **settings, **served(little)
    )
    assert written[0] == written[1] == written[2]
    assert len([body for body in calls(little, "/collective_rpc") if "kwargs" in body]) == 1
    again, rewritten = trained(
        tmp_path, "again", PolicyGradientDistilTrainer, **settings, **served(little)
    )
    assert rewritten == written  # the seeds are of the step
    assert losses(again) == losses(trainer)
    seeds = {body["seed"] for body in answers_asked(little)}
    assert len(seeds) == 4  # one each answer


def test_padding_rows_are_never_drawn_and_nothing_is_left_open(little, tmp_path):
    trained(tmp_path, "run", **served(little))
    body = answers_asked(little)[0]
    rows, tokens = little.model.config.vocab_size, len(TOKENIZER)
    assert body["logit_bias"] == {str(row): -100.0 for row in range(tokens, rows)}
    assert body["repetition_penalty"] == 1.0
    assert body["ignore_eos"]
    assert TOKENIZER.eos_token_id in body["stop_token_ids"]


def test_a_server_that_keeps_its_weights_is_found_before_the_first_step(little, tmp_path):
    little.loads_weights = False
    with pytest.raises(ValueError, match="has another model than the one in training: its log-pr"):
        trained(tmp_path, "run", **served(little))


def test_the_handshake_comes_before_training(little, tmp_path):
    little.max_model_len = 20
    with pytest.raises(ValueError, match="serves 20 tokens of prompt and answer, and the run need"):
        trained(tmp_path, "run", **served(little))
    assert not calls(little, "/v1/completions")
