"""What the student's share of the rows may do besides: adapt, and have a divergence of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kd_lab.divergences import Divergence, get_divergence
from kd_lab.trainers.ranges import NOT_NEGATIVE, SHARE


@dataclass
class MixtureArguments:
    """Where the student answers a share of the rows."""

    student_share_step: float = field(
        default=0.0,
        metadata={
            "help": "DistiLLM's adaptive share: added to student_share, up to 1, where an "
            "evaluation's cross-entropy has risen by student_share_tolerance. 0: it stays."
        },
    )
    student_share_tolerance: float = field(
        default=0.1, metadata={"help": "Nats a token; see student_share_step."}
    )
    student_divergence: str | None = field(
        default=None,
        metadata={"help": "Another divergence in the rows that the student answers."},
    )
    student_divergence_settings: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "The numbers of student_divergence, as JSON."}
    )


def check_mixture(args: MixtureArguments, share: float, evaluates: bool) -> None:
    """Refuse settings of a mixture where there is none.

    Args:
        share: of the rows that the student answers at the start.
        evaluates: whether the training is evaluated on the way.
    Raises:
        ValueError: names the setting, and the change to make.
    """
    if not SHARE.holds(args.student_share_step):
        raise ValueError(f"student_share_step {SHARE.words}, not {args.student_share_step}")
    if not NOT_NEGATIVE.holds(args.student_share_tolerance):
        raise ValueError(
            f"student_share_tolerance {NOT_NEGATIVE.words}, not {args.student_share_tolerance}"
        )
    if args.student_share_step and share == 1:
        raise ValueError(
            "student_share_step would add to a share of 1: set prefixes to dataset or teacher, and "
            "student_share to less"
        )
    if args.student_share_step and not evaluates:
        raise ValueError(
            "student_share_step goes by the loss of evaluations, and eval_strategy is no: say "
            "--eval_strategy steps --eval_steps N"
        )
    if args.student_divergence_settings and not args.student_divergence:
        raise ValueError("student_divergence_settings need a student_divergence")
    is_mixed = 0 < share < 1 or args.student_share_step > 0
    if args.student_divergence and not is_mixed:
        raise ValueError(
            f"student_divergence is of the student's rows beside others, and its share is {share}: "
            "set student_share between 0 and 1, or say divergence alone"
        )
    student_divergence_of(args)


def student_divergence_of(args: MixtureArguments) -> Divergence | None:
    """The divergence of the student's rows; None where it is that of all others.

    Raises:
        ValueError: an unknown name or setting.
    """
    if not args.student_divergence:
        return None
    settings = args.student_divergence_settings or {}
    assert not isinstance(settings, str)
    try:
        return get_divergence(args.student_divergence, **settings)
    except ValueError as error:
        raise ValueError(f"student_divergence: {error}") from error


def adapted_share(start: float, step: float, tolerance: float, losses: Sequence[float]) -> float:
    """DistiLLM's rule (arXiv 2402.03898, and its code): up where the student gets worse.

    The first loss is what the others are compared with. One that is ``tolerance`` or more above it
    adds ``step`` to the share, and the next are compared with that one.

    Args:
        losses: of all evaluations so far, in order, nats a token.
    Returns:
        the share of rows that the student answers now, at most 1.
    """
    share, before = start, losses[0] if losses else 0.0
    for loss in losses[1:]:
        if loss >= before + tolerance:
            share, before = min(share + step, 1.0), loss
    return share
