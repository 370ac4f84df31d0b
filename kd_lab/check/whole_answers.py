"""A loss on whole answers: is what comes later part of its gradient?

D(q‖p) between two distributions of whole answers y is a sum over prefixes c,

    D(q‖p) = Σ_c q(c) · D(q(· | c)‖p(· | c)),

and its gradient has two parts. The first holds the prefixes fixed: each word's own divergence. The
second is the score function of the prefixes: a word is blamed for what follows it. Here is a
language of three words and an end, whose answers have at most three words. All of them are listed,
so that a loss's expected gradient is exact, and so are both parts.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from kd_lab.check.forms import Loss
from kd_lab.divergences import Divergence, reverse_kl

WORDS, LONGEST = 3, 3  # the end is one word more
END = WORDS
SMALL = 1e-2  # a part's coefficient that counts as none, or as one


@dataclass(frozen=True)
class Language:
    """All prefixes and all answers, and two models that are a table of logits at each prefix."""

    answers: list[tuple[int, ...]]
    prefixes: dict[tuple[int, ...], int]
    teacher_logits: Tensor  # [prefixes, words + 1], float64
    student_logits: Tensor

    def path(self, answer: tuple[int, ...]) -> Tensor:
        """The prefixes before each word of an answer, [T]."""
        return torch.tensor([self.prefixes[answer[:t]] for t in range(len(answer))])

    def reached(self, logits: Tensor) -> Tensor:
        """The log-probability of each prefix, [prefixes]; with a graph if the logits have one."""
        logp = logits.log_softmax(-1)
        masses: list[Tensor] = []
        for prefix in self.prefixes:
            if prefix:
                before = self.prefixes[prefix[:-1]]
                masses.append(masses[before] + logp[before, prefix[-1]])
            else:
                masses.append(logits.new_zeros(()))
        return torch.stack(masses)

    def mass(self, logits: Tensor) -> Tensor:
        """The probability of each answer, [answers]."""
        logp = logits.detach().log_softmax(-1)
        each = [logp[self.path(a), torch.tensor(a)].sum() for a in self.answers]
        return torch.stack(each).exp()


@dataclass(frozen=True)
class Answers:
    """What a loss does with whole answers.

    Attributes:
        own: the coefficient of each word's own divergence.
        later: the coefficient of what comes later.
        unexplained: what the two leave of the gradient, in [0, 1].
    """

    own: float
    later: float
    unexplained: float

    @property
    def words(self) -> str:
        """The later part, in words."""
        ratio = self.later / self.own if abs(self.own) > SMALL else float("inf")
        if self.unexplained > SMALL:
            return (
                f"{100 * self.unexplained:.0f}% of the gradient is neither a word's own divergence "
                "nor what comes later"
            )
        if abs(ratio) < SMALL:
            return "each word's own divergence alone: what comes later is missing"
        if abs(ratio - 1) < SMALL:
            return "what comes later is there: the divergence is that of whole answers"
        return f"what comes later has {ratio:.2g} times its weight"


def language(seed: int = 0) -> Language:
    """The language, with a student that is neither its teacher nor far from it."""
    prefixes = [p for length in range(LONGEST) for p in product(range(WORDS), repeat=length)]
    answers = [(*prefix, END) for prefix in prefixes]
    answers += list(product(range(WORDS), repeat=LONGEST))
    draw = torch.Generator().manual_seed(seed)
    shape = (2, len(prefixes), WORDS + 1)
    teacher, student = 1.5 * torch.randn(shape, generator=draw, dtype=torch.float64)
    index = {prefix: i for i, prefix in enumerate(prefixes)}
    return Language(answers, index, teacher, 0.5 * teacher + 0.5 * student)


def expected_gradient(loss: Loss, of: Language, per_token: bool) -> Tensor:
    """The mean gradient over all answers, to the student's table, [prefixes, words + 1].

    Args:
        per_token: whether one answer's loss is a mean over its tokens, and a batch's one over all
            tokens of the batch: an answer then counts with its length.
    """
    writer = of.student_logits if loss.prefixes == "student" else of.teacher_logits
    total = torch.zeros_like(of.student_logits)
    for answer, mass in zip(of.answers, of.mass(writer), strict=True):
        logits = of.student_logits.clone().requires_grad_()
        path, tokens = of.path(answer), torch.tensor([answer])
        student, teacher = logits[path][None], of.teacher_logits[path][None]
        if loss.samples:
            value = loss.of_tokens(
                student, teacher, tokens, torch.ones(tokens.shape, dtype=torch.bool)
            )
        else:
            value = loss.of_logits(student, teacher, tokens)
        if value.requires_grad:
            (found,) = torch.autograd.grad(value, logits)
            total += mass * (len(answer) if per_token else 1) * found
    return total


def own_part(of: Language, divergence: Divergence, writer: Tensor, per_row: bool) -> Tensor:
    """The gradient of each word's own divergence, at prefixes that are held fixed.

    Args:
        writer: the logits of the model that writes the answers.
        per_row: whether each answer counts once, its words with one over its length.
    """
    logits = of.student_logits.clone().requires_grad_()
    here = divergence(of.teacher_logits.log_softmax(-1), logits.log_softmax(-1))
    weights = torch.zeros(len(here), dtype=here.dtype)
    for answer, mass in zip(of.answers, of.mass(writer), strict=True):
        share = mass / len(answer) if per_row else mass
        weights.index_add_(0, of.path(answer), share.expand(len(answer)))
    (found,) = torch.autograd.grad((weights * here).sum(), logits)
    return found


def later_part(of: Language) -> Tensor:
    """The rest of the gradient of D(q‖p) between whole answers: the score of the prefixes."""
    logits = of.student_logits.clone().requires_grad_()
    here = reverse_kl(of.teacher_logits.log_softmax(-1), logits.log_softmax(-1))
    (whole,) = torch.autograd.grad((of.reached(logits).exp() * here).sum(), logits)
    return whole - own_part(of, reverse_kl, of.student_logits, per_row=False)


def examine_answers(
    loss: Loss, divergence: Divergence, per_token: bool, per_row: bool = False, seed: int = 0
) -> Answers:
    """How much of each part a loss's expected gradient has.

    Args:
        divergence: what it is at one position, its coefficient included.
        per_token, per_row: how it divides; see ``expected_gradient`` and ``own_part``.
    """
    of = language(seed)
    writer = of.student_logits if loss.prefixes == "student" else of.teacher_logits
    found = expected_gradient(loss, of, per_token).flatten()
    parts = [own_part(of, divergence, writer, per_row).flatten(), later_part(of).flatten()]
    others = torch.stack(parts, -1)
    coefficients = torch.linalg.lstsq(others, found[:, None]).solution[:, 0]
    left = (found - others @ coefficients).norm() / found.norm().clamp(min=1e-12)
    return Answers(float(coefficients[0]), float(coefficients[1]), float(left))
