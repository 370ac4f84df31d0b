"""What a loss does with a batch: which positions it trains, how it divides, what moves it.

Two rows of a batch are padded, and each begins with a prompt that is not trained. What stands at
these positions must not matter. Neither must the order of rows or the amount of padding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kd_lab.check.forms import Loss, gradient
from kd_lab.vocabulary import IGNORED

ROWS, POSITIONS, WORDS = 3, 7, 12
PROMPTS, LENGTHS = (1, 2, 3), (7, 5, 4)  # of the rows
NONE = 1e-6  # of a gradient's usual length: no gradient
SAME = 1e-6  # relative: no difference; a function that computes in float32 is no further off
SAME_ROUNDED = 2e-3  # likewise, of one that rounds to bfloat16


@dataclass(frozen=True)
class Finding:
    """One thing seen, in words; a fault is what nobody means."""

    name: str
    words: str
    is_fault: bool = False


@dataclass(frozen=True)
class PaddedBatch:
    """Logits [B, T, V], sampled tokens [B, T] and where they are trained, bool [B, T]."""

    student: Tensor
    teacher: Tensor
    tokens: Tensor
    trained: Tensor

    @property
    def labels(self) -> Tensor:
        """[B, T]; -100 where nothing is trained."""
        return torch.where(self.trained, self.tokens, IGNORED)

    def rows(self, order: list[int]) -> "PaddedBatch":
        """Some rows, in an order."""
        return PaddedBatch(
            *(part[order] for part in (self.student, self.teacher, self.tokens, self.trained))
        )

    def without(self, word: int) -> "PaddedBatch":
        """With no token from this word on."""
        return replace(self, tokens=self.tokens % word)

    def padded(self, left: int, right: int) -> "PaddedBatch":
        """With more positions that are not trained, and other numbers there."""

        def wider(part: Tensor) -> Tensor:
            more = [part[:, :1].expand(-1, n, *part.shape[2:]) for n in (left, right)]
            return torch.cat([more[0], part, more[1]], 1)

        trained = torch.nn.functional.pad(self.trained, (left, right))
        return PaddedBatch(wider(self.student), wider(self.teacher), wider(self.tokens), trained)


def a_batch(seed: int = 0) -> PaddedBatch:
    """The batch, float64."""
    draw = torch.Generator().manual_seed(seed)
    shape = (2, ROWS, POSITIONS, WORDS)
    student, teacher = 1.5 * torch.randn(shape, generator=draw, dtype=torch.float64)
    tokens = torch.randint(0, WORDS, (ROWS, POSITIONS), generator=draw)
    at = torch.arange(POSITIONS)
    trained = torch.stack([(at >= p) & (at < n) for p, n in zip(PROMPTS, LENGTHS, strict=True)])
    return PaddedBatch(student, teacher, tokens, trained)


def value_and_gradient(loss: Loss, batch: PaddedBatch) -> tuple[float, Tensor]:
    """The loss of a batch, and its gradient to the student's logits [B, T, V]."""
    student = batch.student.clone().requires_grad_()
    value = _value(loss, student, batch.teacher.clone(), batch)  # it may be changed in place
    if not value.requires_grad:
        return float(value.detach()), torch.zeros_like(student)
    (found,) = torch.autograd.grad(value, student, allow_unused=True)
    return float(value.detach()), torch.zeros_like(student) if found is None else found


def _value(loss: Loss, student: Tensor, teacher: Tensor, batch: PaddedBatch) -> Tensor:
    if loss.samples:
        return loss.of_tokens(student, teacher, batch.tokens, batch.trained)
    return loss.of_logits(student, teacher, batch.labels)


def examine_batch(loss: Loss, seed: int = 0) -> tuple[str, list[Finding]]:
    """How a loss divides, and all that is seen of it on a batch.

    Returns:
        a key of ``REDUCTIONS``, or "unknown"; and the findings.
    """
    batch = a_batch(seed)
    value, found = value_and_gradient(loss, batch)
    findings = []
    if not loss.takes_labels:
        findings.append(Finding("labels", "it takes no labels: its caller selects the positions"))
        batch = replace(batch, trained=torch.ones_like(batch.trained))
    else:
        findings += _ignored(loss, batch, found)
    reduction = _reduction(loss, batch, found)
    words = REDUCTION_WORDS.get(reduction, "its parts are divided by no number that is known")
    findings.append(Finding("division", words, reduction == "all_positions"))
    findings += _moved(loss, batch, value, found)
    findings += _teacher(loss, batch)
    return reduction, findings


def rounds_logits(loss: Loss, seed: int = 0) -> bool:
    """Whether a loss is the same, to the bit, where logits come rounded to bfloat16."""
    batch = a_batch(seed)
    student, teacher = (x.bfloat16().double() for x in (batch.student, batch.teacher))
    value, found = value_and_gradient(loss, batch)
    again, same = value_and_gradient(loss, replace(batch, student=student, teacher=teacher))
    return value == again and torch.equal(found, same)


def _ignored(loss: Loss, batch: PaddedBatch, found: Tensor) -> list[Finding]:
    length = found.norm(dim=-1)  # [B, T]
    usual = length.max()
    at = torch.arange(POSITIONS)
    prompt = torch.stack([at < p for p in PROMPTS])
    padding = torch.stack([at >= n for n in LENGTHS])
    moved = length > NONE * usual
    if usual == 0:
        return []
    for by, words in ((-1, "before"), (1, "after")):
        if torch.equal(moved, torch.roll(batch.trained, by, 1)):
            hint = "it shifts by itself, or does not: see --shifts" if not loss.samples else ""
            return [
                Finding("shift", f"it trains the positions one {words} the labels; {hint}", True)
            ]
    return [
        Finding("ignored", f"it trains {what}, whose labels are {IGNORED}", True)
        for what, where in (("the prompt", prompt), ("the padding", padding))
        if (moved & where).any()
    ]


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {  # trained [B, T] -> the weight of each row
    "tokens": lambda trained: torch.full((len(trained),), 1 / int(trained.sum())),
    "rows": lambda trained: 1 / (len(trained) * trained.sum(1)),
    "all_positions": lambda trained: torch.full((len(trained),), 1 / trained.numel()),
    "batch": lambda trained: torch.full((len(trained),), 1 / len(trained)),
    "sum": lambda trained: torch.ones(len(trained)),
}
REDUCTION_WORDS = {
    "tokens": "a mean over the trained tokens of the batch",
    "rows": "a mean over rows of each row's mean: short answers weigh more",
    "all_positions": "a mean over all positions: padding makes it smaller",
    "batch": "a sum over tokens, divided by the number of rows",
    "sum": "a sum over tokens, not divided",
}


def _reduction(loss: Loss, batch: PaddedBatch, found: Tensor) -> str:
    """By the weight of each trained position: its gradient here by that where it stands alone."""
    weights = torch.full(batch.trained.shape, torch.nan, dtype=torch.float64)
    for row, position in batch.trained.nonzero().tolist():
        one = slice(row, row + 1), slice(position, position + 1)
        alone = PaddedBatch(
            *(x[one] for x in (batch.student, batch.teacher, batch.tokens, batch.trained))
        )
        single = value_and_gradient(loss, alone)[1][0, 0]
        here = found[row, position]
        if single.norm() > 0 and torch.nn.functional.cosine_similarity(single, here, dim=0) > 0.999:
            weights[row, position] = here @ single / (single @ single)
    for name, weight_of in REDUCTIONS.items():
        expected = weight_of(batch.trained)[:, None].expand_as(weights)
        off = (weights / expected - 1)[batch.trained]
        if off.isfinite().all() and off.abs().max() < 1e-3:
            return name
    return "unknown"


def _moved(loss: Loss, batch: PaddedBatch, value: float, found: Tensor) -> list[Finding]:
    """Changes that must not matter."""
    order = [2, 0, 1]
    findings = []
    rounds = not loss.samples and rounds_logits(loss)
    same = SAME_ROUNDED if rounds else SAME

    def differs(other: PaddedBatch, left: int = 0, rows: list[int] | None = None) -> bool:
        new_value, new = value_and_gradient(loss, other)
        back = new[:, left : left + POSITIONS]
        back = back if rows is None else back[torch.tensor(rows).argsort()]
        scale = max(float(found.norm()), 1e-12)
        moved = bool((back - found).norm() > 10 * same * scale)
        return moved or abs(new_value - value) > same * max(1, abs(value))

    if differs(batch.rows(order), rows=order):
        findings.append(Finding("row order", "it changes with the order of the rows", True))
    if loss.takes_labels:
        for side, left, right in (("right", 0, 2), ("left", 2, 0)):
            if differs(batch.padded(left, right), left):
                words = f"it changes with the amount of padding on the {side}"
                findings.append(Finding("padding", words, True))
        noise = torch.where(batch.trained[..., None], 0.0, 3.0)
        if differs(replace(batch, teacher=batch.teacher + noise * batch.teacher)):
            words = "what the teacher says where nothing is trained changes it"
            findings.append(Finding("ignored", words, True))
    if not loss.samples and differs(replace(batch, student=batch.student + 5.0)):
        words = "a constant added to all logits changes it: somewhere a softmax is missing"
        findings.append(Finding("softmax", words, True))
    return findings


def _teacher(loss: Loss, batch: PaddedBatch) -> list[Finding]:
    leaf = batch.teacher.clone().requires_grad_()
    # Copies, since what requires a gradient itself may not be changed in place.
    student, teacher = batch.student.clone().requires_grad_().clone(), leaf.clone()
    value = _value(loss, student, teacher, batch)
    findings = []
    if value.requires_grad:
        (found,) = torch.autograd.grad(value, leaf, allow_unused=True)
        if found is not None and float(found.norm()) > 0:
            words = "the teacher gets a gradient, unless its caller prevents it"
            findings.append(Finding("teacher's gradient", words))
    if not (torch.equal(batch.student, student) and torch.equal(batch.teacher, teacher)):
        findings.append(Finding("in place", "it changes the logits that it is given", True))
    return findings


def in_bfloat16(loss: Loss, seed: int = 0) -> float | None:
    """The error of the gradient where logits come in bfloat16, relative; None where it fails."""
    batch = a_batch(seed)
    near = (batch.teacher + 0.2 * batch.student).bfloat16().double()
    student, teacher = near, batch.teacher.bfloat16().double()
    if loss.samples:
        return None
    exact = gradient(loss, teacher, student, batch.labels)
    try:
        rounded = gradient(replace(loss, dtype=torch.bfloat16), teacher, student, batch.labels)
    except (RuntimeError, ValueError, TypeError):
        return None
    return float((rounded - exact).norm() / exact.norm().clamp(min=1e-12))
