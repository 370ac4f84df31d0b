"""The map: every objective is a point *prefix source × divergence*, with a share of plain SFT.

    Point.of(config)               # of a recipe's settings, a run's config.yaml or a DistilConfig
    Point("student", divergence="reverse_kl").short    # "student × RKL"
    METHODS["minillm"].point       # the named methods are points with a name and an author
    method_of(point)               # and back: the key of the method that lies there

The map is that of Agarwal et al. 2023 (GKD, arXiv 2306.13649), drawn again by arXiv 2605.16826.
A point is a value: two trainings have the same objective where their points are equal. Tables,
pictures, model cards, studies and notebooks take their words and looks from here.

A new prefix source is one entry of PREFIX_SOURCES, and the trainer that the entry names.
"""

import importlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any, NamedTuple

from kd_lab.named_divergence import NamedDivergence, Settings

COLUMNS = ("none", "forward KL", "in between", "reverse KL")  # of the map, from left to right
ROWS = ("dataset", "teacher", "dataset and student", "teacher and student", "student")  # down


class PrefixSource(NamedTuple):
    """Who writes the answers that a student learns from."""

    words: str  # as a sentence names the answers
    marker: str  # in pictures, one of matplotlib's
    trainer: str  # MODULE:CLASS
    writer: str | None = None  # the model that writes the answers; None: they are given


TOKEN_DISTIL = "kd_lab.trainers.token_distil:TokenDistilTrainer"
SEQ_DISTIL = "kd_lab.trainers.seq_distil:SeqDistilTrainer"
POLICY_GRADIENT = "kd_lab.trainers.policy_gradient_distil:PolicyGradientDistilTrainer"
PREFIX_SOURCES = {
    "dataset": PrefixSource("the dataset's answers", "o", TOKEN_DISTIL),
    "teacher": PrefixSource("answers that the teacher wrote", "^", SEQ_DISTIL, "teacher"),
    "student": PrefixSource("answers that the student wrote", "s", SEQ_DISTIL, "student"),
}
MIXED_MARKER = "D"  # the student answers a share of the rows, another source the rest


class Look(NamedTuple):
    """How a point is drawn: colour and line for its divergence, a marker for its prefix source."""

    line: int | None  # a line of the house style's cycle; None: grey, without a divergence
    marker: str
    filled: bool  # hollow where a share is SFT


@dataclass(frozen=True, eq=False)
class Point:
    """A training objective, as a value.

    Attributes:
        prefixes: the writer of the training answers, a key of PREFIX_SOURCES.
        student_share: share of the rows that the student answers anew, in [0, 1]; at the start
            where it adapts.
        share_step: what is added to that share where an evaluation is worse; 0 lets it be.
        share_tolerance: by how many nats a token it must be worse.
        divergence: a name in divergences.py; "" without one.
        settings: the divergence's settings that are not at their defaults, as (name, value).
        alpha: share of the divergence in the loss, in [0, 1]; the rest is cross-entropy.
        temperature: of both distributions inside the divergence.
        policy_gradient: whether the student's rows follow MiniLLM's policy gradient.
        student_divergence: another divergence in the student's rows; "" for the same.
        student_settings: its settings.
        alignment: weight of the distance between the models' hidden states.
    """

    prefixes: str = "dataset"
    student_share: float = 0.0
    divergence: str = "forward_kl"
    settings: Settings = ()
    alpha: float = 1.0
    temperature: float = 1.0
    policy_gradient: bool = False
    share_step: float = 0.0
    share_tolerance: float = 0.0
    student_divergence: str = ""
    student_settings: Settings = ()
    alignment: float = 0.0

    def __post_init__(self) -> None:
        if self.prefixes not in PREFIX_SOURCES:
            known = tuple(PREFIX_SOURCES)
            raise ValueError(f"prefixes must be one of {known}, not {self.prefixes!r}")
        # One point has one spelling, so that equal objectives compare as equal.
        share = 1.0 if self.source.writer == "student" else float(self.student_share)
        changes: dict[str, Any] = {
            "prefixes": "student" if share == 1 else self.prefixes,
            "student_share": share,
            "alpha": float(self.alpha),
            "temperature": float(self.temperature),
            "share_step": 0.0 if share == 1 else float(self.share_step),
            "alignment": float(self.alignment),
        }
        changes["share_tolerance"] = changes["share_step"] and float(self.share_tolerance)
        if not self.has_divergence:
            changes |= {"divergence": "", "settings": (), "temperature": 1.0}
        is_own = self.student_divergence and (
            self.student_divergence != self.divergence
            or self._of_student.short != self._named.short  # asks for defaults, and so for torch
        )
        if not (self.has_divergence and is_own):
            changes |= {"student_divergence": "", "student_settings": ()}
        for name, value in changes.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Point":
        """The point of a training's settings, under the names of DistilConfig."""
        return cls(
            prefixes=config["prefixes"],
            student_share=config.get("student_share") or 0,
            divergence=config["divergence"],
            settings=tuple((config.get("divergence_settings") or {}).items()),
            alpha=config["alpha"],
            temperature=config["distil_temperature"],
            policy_gradient=bool(config.get("policy_gradient")),
            share_step=config.get("student_share_step") or 0,
            share_tolerance=config.get("student_share_tolerance") or 0,
            student_divergence=config.get("student_divergence") or "",
            student_settings=tuple((config.get("student_divergence_settings") or {}).items()),
            alignment=config.get("alignment_weight") or 0,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    @property
    def _value(self) -> tuple[Any, ...]:
        """All fields, with a setting at its default written out."""
        plain = astuple(replace(self, settings=(), student_settings=()))
        return (*plain, self._named.all_settings, self._of_student.all_settings)

    @property
    def _named(self) -> NamedDivergence:
        return NamedDivergence(self.divergence, self.settings)

    @property
    def _of_student(self) -> NamedDivergence:
        return NamedDivergence(self.student_divergence, self.student_settings)

    # ---- what it asks of a training

    @property
    def source(self) -> PrefixSource:
        """Who writes the answers of rows that are not the student's share."""
        return PREFIX_SOURCES[self.prefixes]

    @property
    def is_mixed(self) -> bool:
        """Whether the student answers some rows and another source the others."""
        return 0 < self.student_share < 1 or self.share_step > 0

    @property
    def has_divergence(self) -> bool:
        """Whether the loss has more than cross-entropy."""
        return self.alpha > 0 or self.policy_gradient

    @property
    def is_sft(self) -> bool:
        """Whether it is a control: cross-entropy alone, on answers written before."""
        return not self.has_divergence and self.student_share == 0 and not self.is_mixed

    @property
    def trainer_class(self) -> type:
        """The trainer that follows this objective."""
        path = self.source.trainer
        if self.policy_gradient:
            path = POLICY_GRADIENT
        elif self.is_mixed and self.source.writer is None:
            path = SEQ_DISTIL
        module, _, name = path.partition(":")
        return getattr(importlib.import_module(module), name)  # trainers stand above the map

    # ---- where it lies

    @property
    def column(self) -> str:
        """Its place on the map from left to right, one of COLUMNS."""
        if not self.has_divergence:
            return "none"
        ends = {"forward_kl": "forward KL", "reverse_kl": "reverse KL"}
        return ends.get((self.student_divergence and "both") or self.divergence, "in between")

    @property
    def row(self) -> str:
        """Its place on the map from top to bottom; one of ROWS for the sources on the map."""
        return f"{self.prefixes} and student" if self.is_mixed else self.prefixes

    # ---- its words

    @property
    def short(self) -> str:
        """The words of tables: "dataset × AKL(0.5)", "0.8 SFT + 0.2 dataset × FKL"."""
        source = self.prefixes
        if self.is_mixed:
            given = "" if source == "dataset" else f"{source}, "
            source = f"{given}mixed λ={self.student_share:g}"
            if self.share_step:
                source += f" (+{self.share_step:g} where {self.share_tolerance:g} nats worse)"
        if not self.has_divergence:
            return "SFT" if source == "dataset" else f"{source} × SFT"
        words = f"{source} × {self._named.short}"
        words += f" | {self._of_student.short}" if self.student_divergence else ""
        words += ", policy gradient" if self.policy_gradient else ""
        words += f", T={self.temperature:g}" if self.temperature != 1 else ""
        words += f", hidden states {self.alignment:g}" if self.alignment else ""
        if self.alpha == 1:
            return words
        if self.alpha == 0:  # of the policy gradient's own rows
            return f"{words}, else SFT"
        return f"{1 - self.alpha:g} SFT + {self.alpha:g} {words}"

    @property
    def prefix_words(self) -> str:
        """The writer of the training answers, in the words of a sentence."""
        if self.is_mixed:
            adapting = " (which adapts)" if self.share_step else ""
            share = f"a share of {self.student_share:g}{adapting} written anew by the student"
            return f"{self.source.words}, {share}"
        return self.source.words

    @property
    def divergence_words(self) -> str:
        """The divergence with its settings, in words: "adaptive KL (mu = 0.5)"."""
        words = self._named.words
        if self.student_divergence:
            return f"{words}, and in the student's rows {self._of_student.words},"
        return words

    @property
    def words(self) -> str:
        """The objective in a sentence: a method's name, or its divergence and prefixes."""
        method = method_of(self)
        if method is not None and self.alpha in (0, 1) and self.temperature == 1:
            return METHODS[method].words
        if not self.has_divergence:
            return f"SFT on {self.prefix_words}"
        lowered = f"{self.divergence_words} on {self.prefix_words}"
        lowered += f", T = {self.temperature:g}" if self.temperature != 1 else ""
        lowered += f", and {self.alignment:g} of hidden states" if self.alignment else ""
        if self.alpha == 1:
            return lowered
        return f"{1 - self.alpha:g} SFT and {self.alpha:g} {lowered}"

    # ---- its look

    @property
    def look(self) -> Look:
        """How pictures draw it."""
        line = self._named.line if self.has_divergence else None
        marker = MIXED_MARKER if self.is_mixed else self.source.marker
        return Look(line, marker, filled=self.alpha in (0, 1))


class Method(NamedTuple):
    """A point with a name."""

    name: str  # as the map has it
    words: str  # as a sentence has it
    point: Point
    author: str  # who proposed it; "" for a plain combination
    recipe: str  # of tiny/
    options: tuple[str, ...] = ()  # of kd-lab train, after the recipe


def _skew(divergence: str) -> tuple[str, ...]:
    return ("--divergence", divergence, "--divergence_settings", "{alpha: 0.1}")


METHODS = {
    "sft": Method("SFT", "SFT", Point(alpha=0), "", "sft"),
    "token_fkl": Method(
        "token-level FKL", "token-level forward KL", Point(), "Hinton et al. 2015", "token_fkl"
    ),
    "token_jsd": Method(
        "token-level JSD", "token-level JSD", Point(divergence="jensen_shannon"), "", "token_jsd"
    ),
    "token_akl": Method(
        "AKL", "token-level adaptive KL", Point(divergence="adaptive_kl"),
        "Wu et al. 2024", "token_akl",
    ),
    "abkd": Method(
        "ABKD", "token-level alpha-beta divergence", Point(divergence="alpha_beta"),
        "Wang et al. 2025", "abkd",
    ),
    "token_rkl": Method(
        "token-level RKL", "token-level reverse KL", Point(divergence="reverse_kl"), "", "token_rkl"
    ),
    "seqkd": Method(
        "SeqKD", "SFT on the teacher's answers", Point("teacher", alpha=0),
        "Kim and Rush 2016", "seqkd",
    ),
    "seq_fkl": Method(
        "sequence-level FKL", "sequence-level forward KL", Point("teacher"), "", "seq_fkl"
    ),
    "distillm2_teacher": Method(
        "DistiLLM-2, teacher's half", "DistiLLM-2's half on the teacher's answers",
        Point("teacher", divergence="skew_forward_kl"),
        "Ko et al. 2025", "seq_fkl", _skew("skew_forward_kl"),
    ),
    "imitkd": Method(
        "ImitKD", "ImitKD", Point(student_share=0.5), "Lin et al. 2020", "gkd",
        ("--divergence", "forward_kl", "--divergence_settings", "{}"),
    ),
    "gkd": Method(
        "GKD", "GKD", Point(student_share=0.5, divergence="jensen_shannon"),
        "Agarwal et al. 2023", "gkd",
    ),
    "distillm": Method(
        "DistiLLM", "DistiLLM", Point(student_share=0.5, divergence="skew_reverse_kl"),
        "Ko et al. 2024", "distillm",
    ),
    "distillm2": Method(
        "DistiLLM-2", "DistiLLM-2",
        Point("teacher", 0.5, "skew_forward_kl", student_divergence="skew_reverse_kl"),
        "Ko et al. 2025", "distillm2",
    ),
    "distillm2_student": Method(
        "DistiLLM-2, student's half", "DistiLLM-2's half on the student's answers",
        Point("student", divergence="skew_reverse_kl"),
        "Ko et al. 2025", "seq_rkl", _skew("skew_reverse_kl"),
    ),
    "eopd": Method(
        "EOPD", "entropy-aware on-policy distillation",
        Point("student", divergence="entropy_aware_kl"), "Jin et al. 2026", "eopd",
    ),
    "seq_rkl": Method(
        "on-policy distillation", "on-policy reverse KL",
        Point("student", divergence="reverse_kl"), "Agarwal et al. 2023", "seq_rkl",
    ),
    "minillm": Method(
        "MiniLLM", "MiniLLM",
        Point("student", divergence="reverse_kl", policy_gradient=True),
        "Gu et al. 2023", "minillm",
    ),
}  # fmt: skip


def method_of(point: Point) -> str | None:
    """The key of the named method at a point, whatever its share of SFT and its temperature."""
    if point.has_divergence:
        point = replace(point, alpha=1.0, temperature=1.0)
    return next((key for key, method in METHODS.items() if method.point == point), None)
