"""MiniLLM: the student answers, and learns from the exact single steps and from later rewards.

policy_gradient_weights.py has the mathematics; this file applies it to a batch. The student mixed
with the teacher writes the answers. Both models' hidden states give the log-probabilities of their
tokens. The gradient comes from the loss of every other objective.
"""

from typing import Any

from torch import Tensor

from kd_lab.loss import LiveDistribution, StoredDistribution, Weights, token_log_probs
from kd_lab.rollout.sampling import Completion
from kd_lab.teacher.live import LiveTeacher
from kd_lab.trainers.policy_gradient_weights import policy_gradient_weights
from kd_lab.trainers.seq_distil import Row, SeqDistilTrainer


class PolicyGradientDistilTrainer(SeqDistilTrainer):
    """Sequence-level reverse KL on answers of the student (Gu et al. 2023, arXiv 2306.08543).

    With ``prefixes="student"`` all rows are the student's. With a ``student_share`` below 1 the
    others keep the answers that ``prefixes`` names. Their loss is alpha · reverse KL + (1 - alpha)
    · cross-entropy: at alpha = 0 the plain SFT that MiniLLM adds to its policy gradient.

    With ``updates_per_rollout`` = k answers are written at every k-th step; the steps between train
    on them again. Their own prompts are passed over: an epoch trains on 1/k of all prompts. A run
    resumed between two rollouts writes new answers. So it is the same run only from a checkpoint
    at a multiple of k.

    The gradient of ``loss`` is the policy gradient; its value has no meaning. Watch ``divergence``
    instead: the reverse KL per token at the written prefixes should fall.
    """

    teacher: LiveTeacher

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.teacher, LiveTeacher):
            raise ValueError(
                "policy_gradient asks the teacher about answers that are new each step: give "
                "teacher_model_name_or_path"
            )
        self._rollout: list[dict[str, Any]] = []
        self._writer_logp: dict[int, Tensor] = {}  # of the rollout's micro-batches, each [n]

    # ---- answers

    def write_batches(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The step's rollout, new or an earlier step's."""
        is_new = self.state.global_step % self.args.updates_per_rollout == 0
        if is_new or len(self._rollout) != len(batches):
            self._rollout = super().write_batches(batches)
            self._writer_logp.clear()
        return list(self._rollout)

    def _answers(self, rows: list[Row], writers: Any) -> list[Completion]:
        share = self.args.teacher_mix
        if share == 0 or writers is self.teacher.model:
            return super()._answers(rows, writers)
        with self.teacher.for_writing() as teacher:
            return super()._answers(rows, [(writers, 1 - share), (teacher, share)])

    # ---- the weights of one batch

    def _weights(
        self,
        student: LiveDistribution,
        teacher: LiveDistribution | StoredDistribution | None,
        targets: Tensor,
        positions: Tensor,
        trained: Tensor,
        inputs: dict[str, Any],
    ) -> Weights:
        """Those of the policy gradient in the student's rows, alpha and 1 - alpha in all others."""
        if not self.model.training:
            return super()._weights(student, teacher, targets, positions, trained, inputs)
        assert isinstance(teacher, LiveDistribution)
        student_logp, teacher_logp = (
            token_log_probs(side.hidden, side.head, targets, bias=side.bias, **self._sizes)  # [n]
            for side in (student, teacher)
        )
        writer_logp = self._writer_logp.setdefault(self._micro_batch, student_logp)

        # Their places in ``positions``, which has no last column. A mask would wait for the GPU.
        places = trained - trained // (positions.shape[1] + 1)  # [n], of B·(T - 1)

        def rows(logp: Tensor) -> Tensor:
            flat = logp.new_zeros(positions.numel()).index_copy(0, places, logp)
            return flat.view_as(positions)

        def at_places(rows: Tensor) -> Tensor:
            return rows.flatten().index_select(0, places)

        settings, by_student = self.args, inputs["by_student"][:, None]
        weights = policy_gradient_weights(
            rows(student_logp),
            rows(teacher_logp),
            positions & by_student,
            teacher_mix=settings.teacher_mix,
            length_normalised=settings.length_normalised,
            reward_clip=settings.reward_clip,
            writer_logp=rows(writer_logp),
            ratio_clip=settings.ratio_clip,
        )
        return Weights(
            at_places(weights.divergence.where(by_student, settings.alpha)),
            at_places(weights.cross_entropy.where(by_student, 1 - settings.alpha)),
        )
