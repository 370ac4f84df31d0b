"""Students under one loss, from starts that all losses share, and what they have become."""

from collections.abc import Iterator
from copy import deepcopy
from functools import cache

import torch
from torch import Tensor

from evidence.field.students.language import (
    FIRST_PROMPT,
    INTENTS,
    PROBABILITIES,
    UNSEEN,
    Answers,
    WordModels,
    draw_answers,
    draw_prompts,
)
from evidence.field.students.losses import TOP_K, StudentLoss, cross_entropy
from kd_lab.divergences import Divergence, forward_kl, reverse_kl
from kd_lab.evaluation.modes import exact_modes

SEEDS = 5
TEACHER_WIDTH, STUDENT_WIDTH = 96, 24
TEACHER_STEPS, START_STEPS, STEPS = 1_500, 500, 300
BATCH, FAST, SLOW = 32, 1e-2, 5e-3  # answers; Adam's rate before and in the comparison
WRITTEN = 600  # answers of a model by which its KL is measured


def one_thread() -> None:
    """Sums in one order: a run that is repeated is the same to the bit."""
    torch.set_num_threads(1)


@cache
def teacher() -> WordModels:
    """One network, which has learnt the language."""
    return _sft(WordModels(TEACHER_WIDTH, [1_000]), TEACHER_STEPS, 0)


@cache
def starts() -> WordModels:
    """Students that SFT has brought half of the way."""
    return _sft(WordModels(STUDENT_WIDTH, range(SEEDS)), START_STEPS, 1)


def train(loss: StudentLoss) -> WordModels:
    """The students after the comparison's steps."""
    students, called = deepcopy(starts()), loss.loss
    draw, writing = (torch.Generator().manual_seed(seed) for seed in (2, 3))
    for optimizer in _steps(students, STEPS, SLOW):
        prompts = draw_prompts(SEEDS * BATCH, draw)
        answers = draw_answers(prompts, draw)  # drawn in any case: all losses have these prompts
        if loss.prefixes == "student":
            answers = students.write(prompts, writing)
        rows = zip(
            students(answers.inputs).chunk(SEEDS), teacher_logits(answers, loss).chunk(SEEDS),
            answers.tokens.chunk(SEEDS), answers.mask.chunk(SEEDS), answers.labels.chunk(SEEDS),
            strict=True,
        )  # fmt: skip
        each = [
            called.of_tokens(q, p, tokens, mask)
            if called.samples
            else called.of_logits(q, p, labels)
            for q, p, tokens, mask, labels in rows
        ]
        torch.stack(each).sum().backward()  # no student's weights are in another's loss
        optimizer.step()
    return students


@torch.no_grad()
def teacher_logits(answers: Answers, loss: StudentLoss | None = None) -> Tensor:
    """What the teacher is asked for, [N, T, V]; as this loss asks it."""
    inputs = answers.inputs
    if loss is not None and loss.reads_unseen:
        inputs = torch.cat([torch.full((len(inputs), 1), UNSEEN), inputs], 1)
        return teacher()(inputs)[:, 1:]
    return teacher()(inputs) / (1.0 if loss is None else loss.temperature)


def measure(models: WordModels) -> dict[str, list[float]]:
    """What each model has become.

    Returns:
        a value of each model:
        - ``precision``: its mass on the language's answers, exactly.
        - ``coverage``: the mass of the answers that it gives a tenth of their probability, exactly.
        - ``forward_kl``, ``reverse_kl``: D(teacher‖it), D(it‖teacher), nats per token; over answers
          that were written by the one that stands first, with exact sums over words.
        - ``length``: tokens of its answers.
    """
    prompts = FIRST_PROMPT + torch.arange(WRITTEN) % len(INTENTS)
    draw = torch.Generator().manual_seed(7)
    taught = teacher().write(prompts, draw)
    written = models.write(prompts.repeat(models.count), draw)
    by_teacher = Answers(*(part.repeat(models.count, *[1] * (part.ndim - 1)) for part in taught))
    language = PROBABILITIES.log().expand(len(INTENTS), -1).numpy()
    modes = [exact_modes(language, logp.numpy()) for logp in models.log_probs()]
    return {
        "precision": [1 - float(of["outside_mass"].mean()) for of in modes],
        "coverage": [float(of["coverage"].mean()) for of in modes],
        "forward_kl": _per_token(by_teacher, models, forward_kl),
        "reverse_kl": _per_token(written, models, reverse_kl),
        "length": [float(mask.sum(1).double().mean()) for mask in written.mask.chunk(models.count)],
    }


def situation() -> dict[str, float]:
    """What must be known to read the comparison: the teacher, and what its top k leaves out."""
    prompts = FIRST_PROMPT + torch.arange(WRITTEN) % len(INTENTS)
    answers = teacher().write(prompts, torch.Generator().manual_seed(7))
    p = teacher_logits(answers).double().softmax(-1)
    tail = 1 - p.topk(TOP_K).values.sum(-1)
    measures = {name: values[0] for name, values in measure(teacher()).items()}
    return measures | {"tail": float(tail[answers.mask].mean())}


@torch.no_grad()
def _per_token(answers: Answers, models: WordModels, divergence: Divergence) -> list[float]:
    """The mean over the tokens of each model's rows."""
    logits = teacher_logits(answers), models(answers.inputs)
    found = []
    for p, q, mask in zip(*(x.chunk(models.count) for x in (*logits, answers.mask)), strict=True):
        each = divergence(p.double().log_softmax(-1), q.double().log_softmax(-1))
        found.append(float(each[mask].mean()))
    return found


def _sft(models: WordModels, steps: int, seed: int) -> WordModels:
    draw = torch.Generator().manual_seed(seed)
    for optimizer in _steps(models, steps, FAST):
        answers = draw_answers(draw_prompts(models.count * BATCH, draw), draw)
        logits = models(answers.inputs)
        parts = zip(logits.chunk(models.count), answers.labels.chunk(models.count), strict=True)
        torch.stack([cross_entropy(q, q, labels) for q, labels in parts]).sum().backward()
        optimizer.step()
    return models


def _steps(models: WordModels, steps: int, rate: float) -> Iterator[torch.optim.Optimizer]:
    """An optimizer before each step, gradients cleared; its rate falls to nothing in a line."""
    # Adam treats each number by itself: the students share an optimizer and nothing else.
    optimizer = torch.optim.Adam(list(models.weights.values()), rate, foreach=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        yield optimizer
