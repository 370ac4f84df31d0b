"""What writing answers leaves as it was, and what it does once instead of once a token."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.policy_gradient_distil import PolicyGradientDistilTrainer
from kd_lab.trainers.seq_distil import SeqDistilTrainer
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows


def trainer_of(tmp_path, trainer_class=SeqDistilTrainer, **settings):
    config = DistilConfig(
        output_dir=str(tmp_path / "run"), per_device_train_batch_size=4, max_steps=1, use_cpu=True,
        save_strategy="no", disable_tqdm=True, max_new_tokens=6, prefixes="student", alpha=1.0,
        **settings,
    )  # fmt: skip
    return trainer_class(
        toy_model(32, 2, seed=1), toy_model(64, 2, seed=2), config,
        train_dataset=toy_rows(4), processing_class=TOKENIZER,
    )  # fmt: skip


def checkpointing(trainer) -> list[tuple]:
    return [
        (module.gradient_checkpointing, getattr(module, "_gradient_checkpointing_func", None))
        for module in trainer.model.modules()
        if hasattr(module, "gradient_checkpointing")
    ]


@pytest.mark.parametrize("settings", [{"use_reentrant": True}, {"every_n_layers": 2}])
def test_the_settings_of_activation_checkpointing_survive(settings, tmp_path):
    trainer = trainer_of(
        tmp_path, activation_checkpointing=True, activation_checkpointing_kwargs=settings
    )
    trainer.train()
    before = checkpointing(trainer)
    assert any(is_on for is_on, _ in before)
    if "use_reentrant" in settings:
        assert all(function.keywords["use_reentrant"] for _, function in before)
    else:
        assert [is_on for is_on, _ in before].count(False) == 1
    with trainer._for_writing():
        assert not any(is_on for is_on, _ in checkpointing(trainer))
    assert checkpointing(trainer) == before


class CastsOf(TorchDispatchMode):
    """Counts how often a weight is written anew in another dtype."""

    def __init__(self, weights: list[torch.Tensor]) -> None:
        super().__init__()
        self.addresses = {weight.data_ptr() for weight in weights}
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten._to_copy and (kwargs or {}).get("dtype"):
            self.count += args[0].data_ptr() in self.addresses
        return func(*args, **(kwargs or {}))


def test_a_rollout_in_bfloat16_casts_each_weight_once(tmp_path):
    trainer = trainer_of(tmp_path, bf16=True)
    trainer.train()
    batches = [next(iter(trainer.get_train_dataloader()))]
    weights = [p for p in trainer.model.parameters() if p.dim() == 2]
    with CastsOf(weights) as casts:
        trainer.write_batches(batches)
    matrices = len(weights) - 1  # the embedding is looked up, not multiplied
    assert 0 < casts.count <= matrices


def test_the_teacher_writes_in_its_own_dtype_beside_a_student_in_bfloat16(tmp_path):
    trainer = trainer_of(
        tmp_path, PolicyGradientDistilTrainer, bf16=True, policy_gradient=True,
        divergence="reverse_kl",
    )  # fmt: skip
    ids = torch.tensor([[5, 6, 7]])
    expected = trainer.teacher.model(input_ids=ids).logits
    forward = trainer.teacher.model.forward
    with trainer._for_writing(), trainer.teacher.for_writing() as teacher:
        assert torch.is_autocast_enabled("cpu")
        with torch.no_grad():
            assert torch.equal(teacher(input_ids=ids).logits, expected)
    assert trainer.teacher.model.forward == forward
