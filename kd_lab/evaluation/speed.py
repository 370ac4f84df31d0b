"""How fast models write, and how large they are."""

import statistics
import time
from functools import partial
from typing import Any

from kd_lab.models import Model
from kd_lab.rollout.sampling import Sampling

SPEED_TOKENS = 32  # of each answer that is timed
SPEED_ROUNDS = 3
SPEED_SECONDS = 20.0  # no further round begins after that


def measure_speed(
    student: Model,
    teacher: Model | None,
    prompts: list[list[int]],
    batch_size: int,
    vocab_size: int,
) -> dict[str, Any]:
    """Parameters, and tokens/s of answers that all have one length.

    The models take turns, so that a slow machine slows both.

    Returns:
        - ``student``, ``teacher``: parameters, dtype, device and tokens_per_second, the median of
          the rounds.
        - ``batch_size``, ``tokens_each``: of the timed answers.
    """
    from kd_lab.rollout.transformers_engine import write_answers

    batch = [prompts[i % len(prompts)] for i in range(batch_size)]
    sides = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    write = partial(
        write_answers, eos_token_ids=[], seed=0, batch_size=batch_size, vocab_size=vocab_size
    )
    for side in sides.values():
        write(side.model, batch, Sampling(2))  # warms up
    began = time.perf_counter()
    while len(rates["student"]) < SPEED_ROUNDS:
        for name, side in sides.items():
            started = time.perf_counter()
            written = write(side.model, batch, Sampling(SPEED_TOKENS))
            seconds = time.perf_counter() - started
            rates[name].append(sum(len(answer.tokens) for answer in written) / seconds)
        if time.perf_counter() - began > SPEED_SECONDS:
            break
    return {
        name: {
            "parameters": side.model.num_parameters(),
            "dtype": str(side.model.dtype).removeprefix("torch."),
            "device": str(side.model.device),
            "tokens_per_second": round(statistics.median(rates[name]), 1),
        }
        for name, side in sides.items()
    } | {"batch_size": len(batch), "tokens_each": SPEED_TOKENS}
