"""The models that are evaluated: loaded, compared by vocabulary, and timed."""

import statistics
import time
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from kd_lab.rollout.sampling import Sampling
from kd_lab.teacher.identity import model_identity
from kd_lab.vocabulary import shared_vocabulary_size

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel

SPEED_TOKENS = 32  # of each answer that is timed
SPEED_ROUNDS = 3
SPEED_SECONDS = 20.0  # no further round begins after that


class Model:
    """A model that is evaluated, or its teacher; its weights are loaded when they are needed."""

    def __init__(self, name: str, revision: str | None, dtype: str) -> None:
        """Find a model and its tokenizer.

        Raises:
            ValueError: there is no such model.
        """
        from transformers import AutoConfig, AutoTokenizer

        self.name, self.revision, self.dtype = name, revision, dtype
        self.identity = model_identity(name, revision)
        self.tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        config = AutoConfig.from_pretrained(name, revision=revision)
        self.head_rows = config.get_text_config().vocab_size

    @cached_property
    def model(self) -> "PreTrainedModel":
        """In eval mode, on the GPU if there is one."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            self.name, revision=self.revision, dtype=self.dtype
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)  # type: ignore[arg-type]  # its wrapper hides its own type
        return model.requires_grad_(False).eval()


def shared_size(student: Model, teacher: Model) -> int:
    """How many tokens, from the first, both models have; see ``shared_vocabulary_size``."""
    return shared_vocabulary_size(
        student.tokenizer, teacher.tokenizer, student.head_rows, teacher.head_rows
    )


def measure_speed(
    student: Model,
    teacher: Model | None,
    prompts: list[list[int]],
    batch_size: int,
    vocab_size: int,
) -> dict[str, Any]:
    """Parameters, and tokens/s of answers that are all of one length.

    The models take turns, so that what slows the machine down slows both.

    Returns:
        ``student`` and ``teacher`` with parameters, dtype, device, tokens_per_second (the median of
        the rounds); ``batch_size`` and ``tokens_each``.
    """
    from kd_lab.rollout.transformers_engine import write_answers

    some = [prompts[i % len(prompts)] for i in range(batch_size)]
    sides = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    write = partial(
        write_answers, eos_token_ids=[], seed=0, batch_size=batch_size, vocab_size=vocab_size
    )
    for side in sides.values():
        write(side.model, some, Sampling(2))  # warms up
    began = time.perf_counter()
    while len(rates["student"]) < SPEED_ROUNDS:
        for name, side in sides.items():
            started = time.perf_counter()
            written = write(side.model, some, Sampling(SPEED_TOKENS))
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
    } | {"batch_size": len(some), "tokens_each": SPEED_TOKENS}
