"""All that was found of a loss, its one line, and whether it is what was expected."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kd_lab.check.batch_names import name_of_batches
from kd_lab.check.batches import Finding, examine_batch, in_bfloat16, rounds_logits
from kd_lab.check.candidates import NOT_NAMED, TAILS, Candidate, candidates
from kd_lab.check.fixed_point import End, follow
from kd_lab.check.forms import Loss
from kd_lab.check.missing_words import missing_words
from kd_lab.check.naming import Named, name_gradients
from kd_lab.check.sampling import depends_on_batch
from kd_lab.check.scale import gradients, samples_needed, with_share, with_temperature
from kd_lab.check.situations import Situations, situations
from kd_lab.check.whole_answers import SMALL, Answers, examine_answers
from kd_lab.divergences import DIVERGENCES, get_divergence

WHOLE = "sequence_reverse_kl"  # what --expect takes beside the divergences
LATER = 1e-2


@dataclass(frozen=True)
class Verdict:
    """What a loss optimises.

    Attributes:
        form: a key of ``forms.FORMS``, or "trainer".
        prefixes: who wrote what it was given; "" for a trainer, which says so itself.
        loss: as it was called; None for a trainer.
        seed: of the teachers, students and batches.
        named: its name at one position.
        answers: of whole answers; None where its name is no single divergence.
        reduction: a key of ``batches.REDUCTIONS``, or "unknown".
        findings: all else; faults among them.
        samples: sampled tokens needed for a direction within a tenth, by student.
        bfloat16: the gradient's relative error where logits come in bfloat16.
    """

    form: str
    prefixes: str
    loss: Loss | None
    seed: int
    named: Named
    answers: Answers | None
    reduction: str
    findings: list[Finding]
    samples: dict[str, float]
    bfloat16: float | None

    @cached_property
    def ends(self) -> list[End]:
        """Where its flow ends, from a flat and a collapsed student.

        Empty for a trainer, and where the gradient was sampled.
        """
        if self.loss is None or any(finding.name == "batch" for finding in self.findings):
            return []
        return follow(self.loss, self.seed)

    @property
    def faults(self) -> list[Finding]:
        """What nobody means."""
        return [finding for finding in self.findings if finding.is_fault]

    @property
    def line(self) -> str:
        """The verdict in one line."""
        faults = "; ".join(fault.words for fault in self.faults)
        of_answers = ""
        on_policy = self.loss is not None and self.loss.is_on_policy
        if self.answers is not None and _is_reverse(self.named) and on_policy:
            of_answers = f" ({self.answers.words})"
        return f"it optimises {self.named.words}{of_answers}" + (
            f"; but {faults}" if faults else ""
        )

    def objections(self, expected: str, **settings: float) -> list[str]:
        """Why this is not the loss that was expected, up to one constant factor; empty where it is.

        Args:
            expected: a divergence, "cross_entropy", or "sequence_reverse_kl".
            settings: of the divergence, without which any will do; T is a temperature.
        Raises:
            ValueError: as ``check_expected``.
        """
        check_expected(expected, settings)
        name = "reverse_kl" if expected == WHOLE else expected
        objections = [fault.words for fault in self.faults]
        if not self._is(name, settings):
            wanted = ", ".join(f"{key} {value}" for key, value in settings.items())
            said = f"{name} ({wanted})" if wanted else name
            objections.insert(0, f"it is not {said}: it optimises {self.named.words}")
        elif expected == WHOLE and not (self.answers and _has_later(self.answers)):
            objections.insert(
                0, self.answers.words if self.answers else "it is of no whole answers"
            )
        return objections

    def _is(self, name: str, settings: dict[str, float]) -> bool:
        named = self.named
        # A direction's factor varies: what was expected holds up to one constant factor.
        if named.is_zero or named.times or not named.is_explained or len(named.parts) != 1:
            return False
        candidate, coefficient = named.parts[0]
        found = dict(candidate.settings)
        # A bucket merges words: what is left is the same divergence, of fewer outcomes.
        base = candidate.name.removesuffix(f", {TAILS[0].words}")
        base = base.removesuffix(" on the student's top k")
        found = {"T": 1.0, **_defaults(base), **found}
        same = all(_is_near(found[key], value) for key, value in settings.items() if key in found)
        is_warm = found["T"] != 1.0
        return base == name and coefficient > 0 and same and is_warm <= ("T" in settings)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {
            "form": self.form,
            "prefixes": self.prefixes,
            "verdict": self.line,
            "parts": [
                {"name": c.name, "settings": dict(c.settings), "coefficient": coefficient}
                for c, coefficient in self.named.parts
            ],
            "is_explained": self.named.is_explained,
            "unexplained": self.named.unexplained,
            "cosines": self.named.cosines,
            "lengths": self.named.lengths,
            "answers": self.answers and dataclasses.asdict(self.answers),
            "ends": [dataclasses.asdict(end) for end in self.ends],
            "reduction": self.reduction,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "samples_needed": {
                name: None if count == float("inf") else count
                for name, count in self.samples.items()
            },
            "bfloat16_error": self.bfloat16,
        }


def check_expected(expected: str, settings: Mapping[str, Any]) -> None:
    """Refuse what nothing could be, before anything is examined.

    Raises:
        ValueError: nothing has this name, or it has no such setting, or none of this value.
    """
    known = [name for name in (*DIVERGENCES, "cross_entropy", WHOLE) if name != NOT_NAMED]
    if expected not in known:
        raise ValueError(f"expect must be one of {', '.join(known)}, not {expected!r}")
    temperature = settings.get("T", 1.0)
    if not (_is_number(temperature) and temperature > 0):
        raise ValueError(f"expect_settings: T must be a number above 0, not {temperature!r}")
    others = {key: value for key, value in settings.items() if key != "T"}
    try:
        if expected in DIVERGENCES:
            get_divergence(expected, **others)
        elif others:
            raise ValueError(f"{expected} has no setting {next(iter(others))!r} (it has: T)")
    except ValueError as error:
        raise ValueError(f"expect_settings: {error}") from error


def examine(loss: Loss, seed: int = 0) -> Verdict:
    """Everything about a loss.

    Args:
        seed: of the teachers, students and batches.
    Raises:
        ValueError: the function does not return what its form returns, or fails; says at what.
    """
    at = situations(seed)
    known = candidates(loss.topk if loss.form == "topk" else None)
    if loss.samples and depends_on_batch(loss, at, seed):
        named, words = name_of_batches(loss, at, known, seed)
        findings = [Finding("batch", words), *of_name(named)]
        return Verdict(
            loss.form, loss.prefixes, loss, seed, named, None, "unknown", findings, {}, None
        )
    rounds = not loss.samples and rounds_logits(loss, seed)
    at = at.rounded() if rounds else at
    named = name_of(loss, at, known)
    reduction, findings = examine_batch(loss, seed)
    if rounds:
        words = "it rounds logits to bfloat16, and its gradient: some of it is unexplained for that"
        findings.append(Finding("rounded", words))
    findings += of_name(named) + with_temperature(loss, at, named) + with_share(loss, at, known)
    findings += missing_words(loss, seed)
    return Verdict(
        loss.form,
        loss.prefixes,
        loss,
        seed,
        named,
        _answers(loss, named, reduction, seed),
        reduction,
        findings,
        samples_needed(loss, at),
        in_bfloat16(loss, seed),
    )


def name_of(loss: Loss, at: Situations, known: Sequence[Candidate]) -> Named:
    """The name of a loss whose gradient is known exactly."""
    ours = gradients(loss, at)
    named = name_gradients(ours, at, known)
    if loss.form != "logits":
        return named
    for whose in ("teacher", "student"):  # it may choose words by itself
        if named.is_explained:
            break
        of_top = name_gradients(ours, at, candidates(loss.topk, whose), thorough=False)
        named = of_top if of_top.is_explained else named
    return named


def of_name(named: Named) -> list[Finding]:
    """What is wrong about a name itself."""
    if named.is_zero:
        return [Finding("zero", "its expected gradient is zero: it trains nothing", True)]
    findings = []
    if not named.is_explained:
        words = (
            f"{100 * named.unexplained:.0f}% of its gradient is unexplained; its length is "
            f"{min(named.lengths):.2g} to {max(named.lengths):.2g} times that of reverse KL"
        )
        findings.append(Finding("unexplained", words, True))
    elif named.times:
        words = f"its length is not that of one loss: it optimises {named.words}"
        findings.append(Finding("length", words))
    elif any(coefficient < 0 for _, coefficient in named.parts):
        minus = next(c.words for c, coefficient in named.parts if coefficient < 0)
        findings.append(Finding("sign", f"it makes {minus} larger", True))
    return findings


def _answers(loss: Loss, named: Named, reduction: str, seed: int) -> Answers | None:
    """Of whole answers, where one divergence of the registry explains each word's gradient."""
    if len(named.parts) != 1 or not named.is_explained or named.times:
        return None
    candidate, coefficient = named.parts[0]
    settings = dict(candidate.settings)
    if candidate.name not in DIVERGENCES or "T" in settings:
        return None
    divergence = get_divergence(candidate.name, **settings)
    per_token = reduction not in ("rows", "sum", "batch")
    return examine_answers(
        loss, lambda p, q: coefficient * divergence(p, q), per_token, reduction == "rows", seed
    )


def _defaults(name: str) -> dict[str, Any]:
    """The settings of a divergence that a name without them has."""
    if name not in DIVERGENCES:
        return {}
    parameters = list(inspect.signature(DIVERGENCES[name]).parameters.values())[2:]
    return {parameter.name: parameter.default for parameter in parameters}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_near(found: Any, wanted: Any) -> bool:
    return (
        abs(found - wanted) < 5e-3 if _is_number(found) and _is_number(wanted) else found == wanted
    )


def _is_reverse(named: Named) -> bool:
    return [candidate.name for candidate, _ in named.parts] == ["reverse_kl"]


def _has_later(answers: Answers) -> bool:
    return answers.unexplained < SMALL and abs(answers.later / answers.own - 1) < LATER
