"""How often a micro-batch waits for a GPU, counted on a CPU (tests/helpers/host_reads.py)."""

import pytest

from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.policy_gradient_distil import PolicyGradientDistilTrainer
from kd_lab.trainers.seq_distil import SeqDistilTrainer
from kd_lab.trainers.token_distil import TokenDistilTrainer
from tests.helpers.host_reads import HostReads
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

MOST = 6
ON_POLICY = {"prefixes": "student", "alpha": 1.0, "max_new_tokens": 8, "divergence": "reverse_kl"}
CASES = {
    "forward_kl": (TokenDistilTrainer, {"divergence": "forward_kl"}),
    "jensen_shannon": (TokenDistilTrainer, {"divergence": "jensen_shannon"}),
    "some by the student": (
        SeqDistilTrainer,
        {**ON_POLICY, "prefixes": "dataset", "student_share": 0.5, "alpha": 0.5},
    ),
    "policy gradient": (PolicyGradientDistilTrainer, {**ON_POLICY, "policy_gradient": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_micro_batch_waits_for_a_gpu_six_times_at_most(case, tmp_path):
    trainer_class, settings = CASES[case]
    config = DistilConfig(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, **settings)
    trainer = trainer_class(
        toy_model(32, 1, seed=1), toy_model(64, 2, seed=2), config,
        train_dataset=toy_rows(8), processing_class=TOKENIZER,
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    if isinstance(trainer, SeqDistilTrainer):
        [batch] = trainer.write_batches([batch])
    num_items = (batch["labels"] != -100).sum()
    # The first micro-batch of a run is also that of the checks.
    trainer._micro_batch = 1
    trainer.compute_loss(trainer.model, batch, num_items_in_batch=num_items).backward()
    trainer._micro_batch = 2
    with HostReads() as seen:
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=num_items)
        loss.backward()
    assert 1 <= len(seen.names) <= MOST, seen.names
