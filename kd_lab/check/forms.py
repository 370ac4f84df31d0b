"""How a loss is called, by the form that it has, and the gradient that its caller can expect.

Every form comes down to one of two questions. A loss of *logits* is differentiated as it is. A
loss of *sampled tokens* has a gradient for each word that could have been sampled; the expected
gradient is their mean under the distribution that writes the prefixes:

    Σ over words y of  s(y) · ∂loss/∂log q(y) · ∇log q(y),         s = p, q or a mixture

The sum runs over all words, so that it is exact.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from kd_lab.methods import PREFIX_SOURCES
from kd_lab.vocabulary import IGNORED

FORMS = {
    "logits": "loss(student_logits [B, T, V], teacher_logits [B, T, V], labels [B, T])",
    "topk": "loss(student_logits [B, T, V], topk_logp [B, T, k], topk_tokens [B, T, k], labels)",
    "tokens": "loss(student_logp [B, T], teacher_logp [B, T], mask [B, T]), of sampled tokens",
    "advantage": "advantage(student_logp [B, T], teacher_logp [B, T], mask [B, T]) -> [B, T]",
}
SAMPLED = ("tokens", "advantage")
# What a function of sampled tokens gets besides, where a parameter of it has this name.
BESIDES = ("student_logits", "teacher_logits", "tokens")
# Names by which functions call their last argument, where it has a default.
LABELS = ("labels", "mask", "loss_mask", "response_mask", "target", "targets")


@dataclass(frozen=True)
class Loss:
    """A loss function and the way in which it is called.

    Attributes:
        function: see ``FORMS``; it returns a scalar (an advantage: [B, T]). It may leave out its
            last argument, the labels or the mask.
        form: a key of ``FORMS``.
        settings: keyword arguments of the function.
        prefixes: who writes the sampled tokens: "student", "teacher" or "dataset" (the teacher
            stands for the dataset's distribution).
        shifts: whether it shifts by itself: position t's logits then predict ``labels[:, t + 1]``.
        topk: k, for the form topk.
        dtype: of all that it gets.
    """

    function: Callable[..., Tensor]
    form: str = "logits"
    settings: dict[str, Any] = field(default_factory=dict)
    prefixes: str = "student"
    shifts: bool = False
    topk: int = 6
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, not {self.form!r}")
        if self.prefixes not in PREFIX_SOURCES:
            raise ValueError(
                f"prefixes must be one of {', '.join(PREFIX_SOURCES)}, not {self.prefixes!r}"
            )
        if not callable(self.function):
            raise ValueError(f"a loss is a function, not {type(self.function).__name__}")
        first, second = [*self.parameters, "", ""][:2]
        if "teacher" in first.lower() and "student" in second.lower():
            raise ValueError(
                f"the form {self.form} gives the student's first, but the function calls its first "
                f"parameter {first} and its second {second}: exchange them, or wrap it in a "
                "function that does"
            )

    @property
    def is_on_policy(self) -> bool:
        """Whether the student writes the prefixes and the sampled tokens."""
        return PREFIX_SOURCES[self.prefixes].writer == "student"

    @property
    def samples(self) -> bool:
        """Whether it sees sampled tokens only."""
        return self.form in SAMPLED

    def takes(self, name: str) -> bool:
        """Whether the function has a parameter of this name."""
        return name in self.parameters

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Of the function, by name; read once, since a loss is called thousands of times."""
        try:
            return dict(inspect.signature(self.function).parameters)
        except (TypeError, ValueError):  # a builtin, or a module without a signature
            return {}

    @cached_property
    def takes_labels(self) -> bool:
        """Whether it is told which positions are trained."""
        given = {*self.settings, *(BESIDES if self.samples else ())}
        return _positional(self.parameters, given) >= (4 if self.form == "topk" else 3)

    def of_logits(self, student: Tensor, teacher: Tensor, labels: Tensor, **more: Any) -> Tensor:
        """The value at logits [B, T, V] and labels [B, T] that are shifted already.

        Raises:
            ValueError: it does not return one finite or infinite number, or fails.
        """
        student, teacher = student.to(self.dtype), teacher.to(self.dtype)
        if self.shifts:  # one position more, whose prediction nobody asks for
            student, teacher = (torch.cat([x, x[:, -1:].detach()], 1) for x in (student, teacher))
            labels = torch.cat([labels.new_full((len(labels), 1), IGNORED), labels], 1)
        given: list[Tensor] = [student, teacher]
        if self.form == "topk":
            top, tokens = teacher.log_softmax(-1).topk(min(self.topk, teacher.shape[-1]))
            given = [student, top, tokens]
        return self._called([*given, labels][: len(given) + self.takes_labels], more)

    def of_tokens(
        self, student: Tensor, teacher: Tensor, tokens: Tensor, mask: Tensor, **more: Any
    ) -> Tensor:
        """The value at sampled tokens [B, T]; the logits [B, T, V] are both models' there.

        An advantage becomes the loss of the score function, -Σ advantage·log q(y) / tokens.
        """
        student, teacher = student.to(self.dtype), teacher.to(self.dtype)
        token_logp = [
            logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
            for logits in (student, teacher)
        ]
        besides = {"student_logits": student, "teacher_logits": teacher, "tokens": tokens}
        more |= {name: besides[name] for name in BESIDES if self.takes(name)}
        arguments = [*token_logp, mask][: 2 + self.takes_labels]
        if self.form == "tokens":
            return self._called(arguments, more)
        with torch.no_grad():
            advantage = self.function(*arguments, **self.settings, **more)
        if not isinstance(advantage, Tensor) or advantage.shape != mask.shape:
            shape = list(getattr(advantage, "shape", []))
            raise ValueError(f"an advantage has the mask's shape {list(mask.shape)}, not {shape}")
        return -(advantage * token_logp[0] * mask).sum() / mask.sum()

    def _called(self, arguments: list[Tensor], more: dict[str, Any]) -> Tensor:
        value = self.function(*arguments, **self.settings, **more)
        if isinstance(value, tuple | list) and value:
            value = value[0]
        value = getattr(value, "loss", value)
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = list(getattr(value, "shape", []))
            raise ValueError(
                f"a loss of form {self.form} returns one number, not "
                f"{f'shape {shape}' if isinstance(value, Tensor) else type(value).__name__}; "
                "reduce it first, or wrap it in a function that does"
            )
        return value.reshape(())


def expected_gradient(
    loss: Loss, teacher: Tensor, student: Tensor, target: int, **more: Any
) -> Tensor:
    """The gradient to the student's logits at one position, in expectation: [V], float64.

    Args:
        teacher, student: logits [V].
        target: the word that the dataset has there; a loss of sampled tokens has others.
        more: keyword arguments of the function, such as a temperature.
    """
    if loss.samples:
        return writer(loss, teacher, student) @ token_gradients(loss, teacher, student, **more)
    labels = torch.tensor([[target]])
    return gradient(loss, teacher[None, None], student[None, None], labels, **more)[0, 0]


def gradient(loss: Loss, teacher: Tensor, student: Tensor, labels: Tensor, **more: Any) -> Tensor:
    """The gradient to logits [B, T, V] of a loss of logits; 0 where there is none."""
    student = student.detach().clone().requires_grad_()
    given = teacher.clone()  # which a loss may change in place
    return _gradient(loss.of_logits(student, given, labels, **more), student)


def token_gradients(loss: Loss, teacher: Tensor, student: Tensor, **more: Any) -> Tensor:
    """The gradient to the student's logits for each word that could have been sampled, [V, V]."""
    mask = torch.ones(1, 1, dtype=torch.bool)
    rows = []
    for word in range(len(student)):
        logits = student.detach().clone().requires_grad_()
        tokens = torch.tensor([[word]])
        given = teacher.clone()[None, None]  # which a loss may change in place
        value = loss.of_tokens(logits[None, None], given, tokens, mask, **more)
        rows.append(_gradient(value, logits))
    return torch.stack(rows)


def writer(loss: Loss, teacher: Tensor, student: Tensor) -> Tensor:
    """The distribution that writes the sampled tokens, [..., V]."""
    return (student if loss.is_on_policy else teacher).softmax(-1)


def _gradient(value: Tensor, to: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(to)
    (found,) = torch.autograd.grad(value, to, allow_unused=True)
    return torch.zeros_like(to) if found is None else found.detach()


def _positional(of: dict[str, inspect.Parameter], given: set[str]) -> int:
    """How many arguments it takes by position, without those that are given by name."""
    parameters = of.values()
    if not parameters or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 4
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(
        p.kind in by_position and (p.default is p.empty or p.name in LABELS) and p.name not in given
        for p in parameters
    )
