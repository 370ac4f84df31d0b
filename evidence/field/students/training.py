"""Students under one loss, from starts that all losses share, and what they have become."""

from collections.abc import Iterator
from copy import deepcopy
from functools import cache

import torch
from torch import Tensor

from evidence.field.students.language import (
    END,
    INTENTS,
    LANGUAGE,
    PROBABILITIES,
    TEACHER,
    VOCABULARY,
    Students,
    draw_answers,
)
from evidence.field.students.losses import TOP_K, StudentLoss, cross_entropy
from kd_lab.divergences import forward_kl, reverse_kl
from kd_lab.evaluation.modes import exact_modes

SEEDS = 5
START_STEPS, STEPS = 100, 200
BATCH = 16  # answers of a step
FAST, SLOW = 0.2, 0.1  # Adam's rate before the comparison, and in it
CUT = 40  # tokens, where an answer of an exact sum is cut


def one_thread() -> None:
    """Sums in one order: a run that is repeated is the same to the bit."""
    torch.set_num_threads(1)


@cache
def starts() -> Students:
    """Students that SFT has brought a part of the way."""
    students, draw = Students(SEEDS), torch.Generator().manual_seed(1)
    for optimizer in _steps(students, START_STEPS, FAST):
        answers = draw_answers(_prompts(draw), draw)
        parts = zip(students(answers.states).chunk(SEEDS), answers.labels.chunk(SEEDS), strict=True)
        torch.stack([cross_entropy(q, q, labels) for q, labels in parts]).sum().backward()
        optimizer.step()
    return students


def train(loss: StudentLoss, rate: float = SLOW) -> Students:
    """The students after the comparison's steps, at Adam's rate."""
    students, called = deepcopy(starts()), loss.loss
    draw, writing = (torch.Generator().manual_seed(seed) for seed in (2, 3))
    for optimizer in _steps(students, STEPS, rate):
        prompts = _prompts(draw)
        answers = draw_answers(prompts, draw)  # drawn in any case: all losses have these prompts
        if loss.prefixes == "student":
            answers = students.write(prompts, writing)
        served = answers.teacher_logits / loss.temperature
        rows = zip(
            *(part.chunk(SEEDS) for part in (students(answers.states), served, *answers[:2])),
            answers.labels.chunk(SEEDS),
            strict=True,
        )
        each = [
            called.of_tokens(q, p, tokens, mask)
            if called.samples
            else called.of_logits(q, p, labels)
            for q, p, tokens, mask, labels in rows
        ]
        torch.stack(each).sum().backward()  # no student's table is in another's loss
        optimizer.step()
    return students


def measure(logps: Tensor) -> dict[str, list[float]]:
    """What models have become; all of it by exact sums.

    Args:
        logps: of each model in every state, [M, states, V].
    Returns:
        a value of each model:
        - ``precision``: its mass on the language's answers.
        - ``coverage``: the mass of the answers that it gives a tenth of their probability.
        - ``forward_kl``, ``reverse_kl``: D(teacher‖it), D(it‖teacher) of whole answers, by the
          mean length of the answers of the one that stands first: nats per token.
        - ``length``: of its answers, tokens.
    """
    language = PROBABILITIES.log().expand(INTENTS, -1).numpy()
    p = TEACHER.logits.double().log_softmax(-1)
    found: dict[str, list[float]] = {
        name: [] for name in ("precision", "coverage", "forward_kl", "reverse_kl", "length")
    }
    by_teacher = reached(p)
    for q in logps:
        each = q[LANGUAGE.states].gather(-1, LANGUAGE.tokens[..., None]).squeeze(-1)
        of_answers = torch.where(LANGUAGE.mask, each, 0).sum(-1).view(INTENTS, -1)
        modes = exact_modes(language, of_answers.numpy())
        by_student = reached(q)
        found["precision"].append(1 - float(modes["outside_mass"].mean()))
        found["coverage"].append(float(modes["coverage"].mean()))
        found["forward_kl"].append(float(by_teacher @ forward_kl(p, q) / by_teacher.sum()))
        found["reverse_kl"].append(float(by_student @ reverse_kl(p, q) / by_student.sum()))
        found["length"].append(float(by_student.sum() / INTENTS))
    return found


def reached(logp: Tensor) -> Tensor:
    """How often a model is in each state while it answers every prompt once, [states]."""
    now = torch.zeros(len(logp), dtype=torch.float64)
    now[:INTENTS] = 1
    goes_on = logp.exp().clone()
    goes_on[:, END] = 0
    total = torch.zeros_like(now)
    for _ in range(CUT):
        total += now
        step = now[:, None] * goes_on
        now = torch.zeros_like(now).index_add_(0, TEACHER.following.flatten(), step.flatten())
    return total


def of_teacher() -> dict[str, float]:
    """The teacher itself, and the mass that its top k leaves out, over its answers."""
    p = TEACHER.logits.double().log_softmax(-1)
    by_teacher = reached(p)
    tail = 1 - p.exp().topk(TOP_K).values.sum(-1)
    measures = {name: values[0] for name, values in measure(p[None]).items()}
    return measures | {
        "tail": float(by_teacher @ tail / by_teacher.sum()),
        "tail_of_first_word": float(tail[:INTENTS].mean()),
        "words": float(VOCABULARY),
    }


def _prompts(draw: torch.Generator) -> Tensor:
    return torch.randint(INTENTS, (SEEDS * BATCH,), generator=draw)


def _steps(students: Students, steps: int, rate: float) -> Iterator[torch.optim.Optimizer]:
    """An optimizer before each step, gradients cleared; its rate falls to nothing in a line."""
    # Adam treats each number by itself: the students share an optimizer and nothing else.
    optimizer = torch.optim.Adam([students.table], rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        yield optimizer
