"""The losses of the field: whose, which version, what is said of each, and how it is called."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from evidence.field import formulas as F
from evidence.field import libraries as L


@dataclass(frozen=True)
class Implementation:
    """A loss of another project.

    Attributes:
        project: its name and version, or the date of the snapshot that was read.
        what: which of its losses.
        where: file in its repository, or its thread.
        says: what its documentation calls it.
        function: as ``kd_lab.check.check_loss`` takes it.
        form: likewise, a key of ``kd_lab.check.forms.FORMS``.
        how: the other arguments of ``check_loss``.
        expected: what it says, as ``Verdict.objections`` takes it.
        expected_settings: of the divergence.
        state: since when, or whether, it is otherwise; a thread.
    """

    project: str
    what: str
    where: str
    says: str
    function: Callable[..., Tensor]
    form: str
    expected: str
    how: dict[str, Any] = field(default_factory=dict)
    expected_settings: dict[str, float] = field(default_factory=dict)
    state: str = ""

    @property
    def is_run(self) -> bool:
        """Whether the project's own code was run; else its formula was written anew."""
        return self.function.__module__ == L.__name__


def _beta(value: float) -> dict[str, Any]:
    return {"settings": {"beta": value}}


TRL, LIGER = "TRL 1.16.0", "Liger 0.8.5"
SERVER = "trl/experimental/server_distillation/server_distillation_trainer.py"
SDFT = "trl/experimental/sdft/loss_utils.py"
STABLE = "trl/trainer/distillation_trainer.py"
GKD = "trl/experimental/gkd/gkd_trainer.py"
LIGER_JSD = "liger_kernel/chunked_loss/jsd_loss.py"
VERL = "verl 0.9.0 (2026-08-22)"
AREAL = "AReaL (2026-05-21)"
TORCHTUNE = "torchtune 0.6.1"
NEMO = "NeMo-RL 0.7.0 (2026-08-22)"

IMPLEMENTATIONS = (
    Implementation(
        TRL, "DistillationTrainer, β 1 (default)", STABLE, "reverse KL",
        L.trl_distillation, "logits", "reverse_kl",
    ),
    Implementation(
        TRL, "DistillationTrainer, β ½", STABLE, "generalised JSD",
        L.trl_distillation, "logits", "jensen_shannon", _beta(0.5), {"beta": 0.5},
    ),
    Implementation(
        TRL, "DistillationTrainer, β 0", STABLE, "forward KL",
        L.trl_distillation, "logits", "forward_kl", _beta(0.0),
    ),
    Implementation(
        TRL, "GKDTrainer, β 0.1", GKD, "generalised JSD",
        L.trl_gkd, "logits", "jensen_shannon", _beta(0.1), {"beta": 0.1},
        "β and 1-β were swapped until March 2025 (TRL #3043)",
    ),
    Implementation(
        TRL, "SDFT and SDPO, whole vocabulary, α 1", SDFT, "reverse KL",
        L.trl_self_distillation, "logits", "reverse_kl",
    ),
    Implementation(
        TRL, "SDFT and SDPO, student's top k with a tail", SDFT,
        "reverse KL on the student's top k, the rest in one bucket",
        L.trl_self_distillation_topk, "logits", "reverse_kl",
    ),
    Implementation(
        TRL, "SDFT and SDPO, sampled token", SDFT, "reverse KL",
        L.trl_self_distillation_sampled, "tokens", "reverse_kl",
    ),
    Implementation(
        TRL, "ServerDistillationTrainer, β 0", SERVER,
        "forward KL on the teacher's top k, with a tail",
        L.trl_server_forward, "topk", "forward_kl",
    ),
    Implementation(
        TRL, "ServerDistillationTrainer, β 1", SERVER,
        "reverse KL on the sampled token, with a tail",
        L.trl_server_sampled, "tokens", "reverse_kl",
    ),
    Implementation(
        TRL, "ServerDistillationTrainer, β ½", SERVER,
        "generalised JSD on two tokens, with a tail",
        L.trl_server_sampled, "tokens", "jensen_shannon", _beta(0.5), {"beta": 0.5},
    ),
    Implementation(
        TRL, "importance-weighted on-policy distillation",
        "trl/experimental/iw_opd/iw_opd_trainer.py", "weighted reverse KL by the sampled token",
        L.trl_iw_opd, "tokens", "reverse_kl",
    ),
    Implementation(
        LIGER, "fused linear JSD, β ½, no hard loss", LIGER_JSD, "generalised JSD",
        L.liger_jsd, "logits", "jensen_shannon",
        {"settings": {"beta": 0.5, "hard": 0.0}}, {"beta": 0.5},
        "labels were ignored until December 2025 (Liger #974)",
    ),
    Implementation(
        LIGER, "fused linear JSD, β 1, no hard loss", LIGER_JSD, "reverse KL",
        L.liger_jsd, "logits", "reverse_kl", {"settings": {"beta": 1.0, "hard": 0.0}},
    ),
    Implementation(
        TORCHTUNE, "ForwardKLLoss", "torchtune/modules/loss/kd_losses.py",
        "forward KL", L.torchtune_forward, "logits", "forward_kl",
    ),
    Implementation(
        TORCHTUNE, "ReverseKLLoss", "torchtune/modules/loss/kd_losses.py",
        "reverse KL", L.torchtune_reverse, "logits", "reverse_kl",
    ),
    Implementation(
        VERL, "loss_mode k3 (default), as a loss", "verl/trainer/distillation/losses.py",
        "reverse KL", F.k3, "tokens", "reverse_kl",
        state="a comment beside it says that k2's gradient is the right one",
    ),
    Implementation(
        "torchrl (2026-07-21)", "DistillationLoss, kl_direction reverse (default)",
        "pytorch/rl #4038", "reverse KL", F.unclamped_k3, "tokens", "reverse_kl",
    ),
    Implementation(
        VERL, "loss_mode k2, as a loss", "verl/trainer/distillation/losses.py",
        "reverse KL", F.k2, "tokens", "reverse_kl",
    ),
    Implementation(
        VERL, "loss_mode abs, as a loss", "verl/trainer/distillation/losses.py",
        "reverse KL", F.absolute, "tokens", "reverse_kl",
    ),
    Implementation(
        VERL, "forward KL on the teacher's top k", "verl/trainer/distillation/losses.py",
        "forward KL", F.truncated_forward, "topk", "forward_kl",
        state="forward_kl_topk_tail adds the tail in a bucket (verl #7856)",
    ),
    Implementation(
        VERL, "reverse KL on the teacher's top k (removed)", "verl #5041",
        "reverse KL", F.truncated_reverse, "topk", "reverse_kl",
        state="removed before the merge",
    ),
    Implementation(
        AREAL, "reward and distillation together", "areal/trainer/ppo/actor.py", "reverse KL",
        F.k1, "tokens", "reverse_kl",
    ),
    Implementation(
        AREAL, "distillation alone", "areal/trainer/ppo/actor.py", "reverse KL",
        F.importance_weighted, "tokens", "reverse_kl",
    ),
    Implementation(
        "miles (2026-08-21)", "top-k KL in the advantage", "miles #2362",
        "reverse KL", F.prefix_penalty, "advantage", "reverse_kl", state="open (miles #2362)",
    ),
    Implementation(
        "tinker-cookbook, slime, prime-rl, ms-swift OPD-RL", "k1 in the advantage",
        "tinker_cookbook/distillation/", "reverse KL", F.k1_advantage, "advantage", "reverse_kl",
    ),
    Implementation(
        VERL, "loss_mode k3 in the reward (use_policy_gradient), its clamps left out",
        "verl/trainer/distillation/losses.py",
        "reverse KL", F.k3_advantage, "advantage", "reverse_kl",
    ),
    Implementation(
        "ms-swift 4.5.2, NeMo-RL 0.7.0", "forward KL, both renormalised on k",
        "swift/rlhf_trainers/gkd_loss.py", "forward KL", F.both_renormalised, "topk", "forward_kl",
    ),
    Implementation(
        NEMO, "reverse KL, zero_outside_topk", "nemo_rl/distributed/model_utils.py:2003",
        "reverse KL", F.fixed_outside, "topk", "reverse_kl",
    ),
    Implementation(
        "axolotl 0.18.0", "KD plugin, kd_normalize_topk", "src/axolotl/integrations/kd/",
        "forward KL", F.teacher_renormalised, "topk", "forward_kl",
    ),
    Implementation(
        "DistillKit (2026-03-14)", "missing_probability_handling: uniform", "README.md",
        "forward KL", F.uniform_outside, "topk", "forward_kl",
    ),
    Implementation(
        "DistiLLM (2025-03)", "skew reverse KL, λ 0.1", "distillm/losses.py",
        "skew reverse KL", F.skew_reverse, "logits", "skew_reverse_kl",
        expected_settings={"alpha": 0.1},
    ),
    Implementation(
        "ms-swift before #6940, DistiLLM #16", "cross-entropy on the student's own answers",
        "ms-swift #6857", "SFT", F.own_likelihood, "tokens", "cross_entropy",
        state="mended in ms-swift",
    ),
)  # fmt: skip
