"""The post's two code listings, run on the toy language.

    python -m evidence listing runs/demo     # after `make demo`; half a minute

We repeat the faulty calls of the listings, each beside the call that was meant. They run on true
batches of conversations, with the toy study's teacher and the student that all its methods start
from. A share over rows or batches has a 95% bootstrap interval. The results go to
assets/results/listing.json.

The batches are those of TRL's collator: rows padded on the right, labels -100 on prompts and
padding.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from kd_lab.data.examples import training_examples
from kd_lab.data.toy_language import conversations, log_prob
from kd_lab.divergences import forward_kl, reverse_kl
from kd_lab.evaluation.intervals import bootstrap_interval
from kd_lab.runs.versions import run_versions
from kd_lab.vocabulary import IGNORED

ROWS = 64  # of a batch, as in tiny/token_fkl
BATCHES = 20
COMMON_LENGTH = 2048  # alignment-handbook's max_seq_length for UltraChat
CALLS = 16  # of generate on one question
NEW_TOKENS = 16  # the longest answer has 14


class ToyBatch(NamedTuple):
    """Rows of one batch, and their questions in words, by which answers are marked."""

    input_ids: Tensor  # [B, T], padded on the right
    labels: Tensor  # [B, T], -100 on prompts and padding
    lengths: Tensor  # [B], without padding
    prompt_lengths: Tensor  # [B]
    questions: list[str]

    @property
    def attention_mask(self) -> Tensor:
        return (torch.arange(self.input_ids.shape[1]) < self.lengths[:, None]).long()  # [B, T]


def measure(runs: Path) -> dict[str, Any]:
    """Measure with the teacher and the start of the toy study.

    Raises:
        ValueError: one of them is missing.
    """
    for name in ("teacher", "start"):
        if not (runs / name / "config.json").is_file():
            raise ValueError(f"{runs / name} holds no model: run `make demo` first")
    torch.set_num_threads(1)
    logging.set_verbosity_error()  # it warns of prompts padded on the right, time and again
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(runs / "teacher")
    teacher, student = (
        AutoModelForCausalLM.from_pretrained(runs / name, dtype=torch.float32).eval()
        for name in ("teacher", "start")
    )
    return audit(teacher, student, tokenizer) | {"versions": run_versions({"seed": 0})}


def audit(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int = BATCHES,
) -> dict[str, Any]:
    """Every measurement, under the name of the call that it tests."""
    batches = [toy_batch(tokenizer, ROWS, seed) for seed in range(count)]
    return {
        "settings": {"batches": count, "rows": ROWS, "common_length": COMMON_LENGTH},
        "keyword": keyword(),
        "direction": direction(),
        "first_listing": sampling_without_do_sample(teacher, tokenizer, batches[0], CALLS),
        "loss": loss_of_batches(teacher, student, batches),
        "prompts": prompts_of_batches(batches),
        "generation": generation(teacher, tokenizer, batches),
    }


def toy_batch(tokenizer: PreTrainedTokenizerBase, rows: int, seed: int) -> ToyBatch:
    """A batch of the training split's conversations, as a collator makes it."""
    talks = Dataset.from_list(conversations(rows, seed))
    examples = training_examples(talks, tokenizer).rows
    ids, labels = (
        [torch.tensor(row) for row in examples[name]] for name in ("input_ids", "labels")
    )
    assert isinstance(tokenizer.pad_token_id, int)
    return ToyBatch(
        pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
        pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        torch.tensor([len(row) for row in ids]),
        torch.tensor(examples["prompt_length"]),
        [messages[0]["content"] for messages in talks["messages"]],
    )


# ---- F.kl_div: its arguments, its direction


def keyword() -> dict[str, str]:
    """The effect of ``log_teacher=True``, and of leaving it out instead of renaming it."""
    teacher_logp, student_logp = _random_distributions()
    try:
        F.kl_div(student_logp, teacher_logp, reduction="batchmean", log_teacher=True)  # type: ignore[call-arg]
    except TypeError as error:
        refused = str(error)
    left_out = F.kl_div(student_logp, teacher_logp, reduction="batchmean")
    return {
        "error": refused,
        "type": "TypeError",
        "left_out": f"{float(left_out)}",
        "torch": torch.__version__,
    }


def direction() -> dict[str, float]:
    """The listing's call, its keyword corrected, against both divergences; nats, per row."""
    teacher_logp, student_logp = _random_distributions()
    mended = F.kl_div(student_logp, teacher_logp, reduction="batchmean", log_target=True)
    return {
        "kl_div": float(mended),
        "forward_kl": float(forward_kl(teacher_logp, student_logp).mean()),
        "reverse_kl": float(reverse_kl(teacher_logp, student_logp).mean()),
    }


def _random_distributions() -> tuple[Tensor, Tensor]:
    """Log-probabilities of a teacher and a student, [4, 8] each, in float64."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 8, generator=draw, dtype=torch.float64)
    teacher_logp, student_logp = logits.log_softmax(-1)
    return teacher_logp, student_logp


# ---- the token-level listing: its sum and its divisor


@torch.no_grad()
def loss_of_batches(
    teacher: PreTrainedModel, student: PreTrainedModel, batches: Sequence[ToyBatch]
) -> dict[str, Any]:
    """The listing's loss, its keyword corrected, against the mean over trained tokens.

    Returns:
        - ``share``: the shares of prompt, answer and padding in the listing's sum.
        - ``tokens``: their shares of the batch's positions.
        - ``divisor``: the answers' mean over their part of the listing's loss, which divides by the
          batch's longest row (``longest_row``) or by 2,048 (``common_length``).
        - ``longest_row_range``: the smallest and largest ``longest_row`` over the batches.
    """
    shares, tokens, divisors = [], [], []
    for batch in batches:
        divergence = forward_kl(*(_logp(model, batch) for model in (teacher, student)))  # [B, T]
        parts = _parts(batch)
        sums = {name: float(divergence[where].sum()) for name, where in parts.items()}
        shares.append({name: value / sum(sums.values()) for name, value in sums.items()})
        tokens.append({name: float(where.double().mean()) for name, where in parts.items()})
        rows, length = batch.input_ids.shape
        mean = sums["answer"] / int(parts["answer"].sum())
        divisors.append(
            {
                "longest_row": mean / (sums["answer"] / rows / length),
                "common_length": mean / (sums["answer"] / rows / COMMON_LENGTH),
            }
        )
    over = [divisor["longest_row"] for divisor in divisors]
    return {
        "share": _means(shares),
        "tokens": _means(tokens),
        "divisor": _means(divisors),
        "longest_row_range": {"low": min(over), "high": max(over)},
    }


def _logp(model: PreTrainedModel, batch: ToyBatch) -> Tensor:
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return logits.double().log_softmax(-1)  # [B, T, V]


def _parts(batch: ToyBatch) -> dict[str, Tensor]:
    """Masks [B, T] of the positions whose next token is an answer's, a prompt's or padding."""
    place = torch.arange(batch.input_ids.shape[1])
    prompt = place < batch.prompt_lengths[:, None] - 1
    within = place < batch.lengths[:, None] - 1
    return {"prompt": prompt, "answer": within & ~prompt, "padding": ~within}


# ---- the sequence-level listing: its prompts and their padding


def prompts_of_batches(batches: Sequence[ToyBatch]) -> dict[str, Any]:
    """``(labels == -100).sum(dim=1)`` as the length of the prompt.

    Returns:
        - ``with_answer``: the share of rows whose "prompt" holds words of the answer, since padding
          is -100 too.
        - ``whole_answer``: the share of rows whose "prompt" holds the whole answer.
        - ``answer_tokens``: how many of the answer's tokens it holds, on average over all rows.
    """
    leaked, whole = [], []
    for batch in batches:
        taken = (batch.labels == IGNORED).sum(1)  # as in the listing
        leak = torch.minimum(taken, batch.lengths) - batch.prompt_lengths
        leaked += leak.tolist()
        whole += (taken >= batch.lengths).tolist()
    return {
        "with_answer": _interval([tokens > 0 for tokens in leaked]),
        "whole_answer": _interval(whole),
        "answer_tokens": _interval(leaked),
    }


def generation(
    teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batches: Sequence[ToyBatch]
) -> dict[str, Any]:
    """Prompts padded on the right before ``generate``, as in the listing, and on the left.

    Both sides get the true prompts. An answer is correct if the grammar can make it.

    Returns:
        - ``padded``: the share of prompts with any padding.
        - ``changed``: the share of greedy answers that the side changes.
        - ``changed_padded``: that share among the prompts with padding.
        - ``correct``: the share of correct answers, sampled as in the listing, for ``right`` and
          ``left``.
    """
    padded: list[bool] = []
    changed: list[bool] = []
    correct: dict[str, list[bool]] = {"right": [], "left": []}
    for seed, batch in enumerate(batches):
        greedy, sampled = (
            {
                side: _answers(teacher, tokenizer, batch, side, seed=seed if sample else None)
                for side in correct
            }
            for sample in (False, True)
        )
        padded += (batch.prompt_lengths < batch.prompt_lengths.max()).tolist()
        changed += [a != b for a, b in zip(greedy["right"], greedy["left"], strict=True)]
        for side, answers in sampled.items():
            correct[side] += [
                log_prob(question, answer) > -math.inf
                for question, answer in zip(batch.questions, answers, strict=True)
            ]
    return {
        "padded": _interval(padded),
        "changed": _interval(changed),
        "changed_padded": _interval([c for c, p in zip(changed, padded, strict=True) if p]),
        "correct": {side: _interval(values) for side, values in correct.items()},
    }


def sampling_without_do_sample(
    teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: ToyBatch, calls: int
) -> dict[str, Any]:
    """Different answers to one question in many calls of ``generate``, without and with sampling.

    The post's first listing calls it without sampling, and says that it samples.
    """
    found = {}
    for name, seeds in (("plain", [None] * calls), ("do_sample", list(range(calls)))):
        answers = [_answers(teacher, tokenizer, batch, "left", seed=seed) for seed in seeds]
        found[name] = _interval([len(set(of_one)) for of_one in zip(*answers, strict=True)])
    return {"calls": calls, "questions": len(batch.questions), "different_answers": found}


def _answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: ToyBatch,
    side: str,
    seed: int | None,
) -> list[str]:
    """The model's answers, in words; seed None keeps the defaults of ``generate``."""
    prompts = [
        ids[:length] for ids, length in zip(batch.input_ids, batch.prompt_lengths, strict=True)
    ]
    pad, width = tokenizer.pad_token_id, int(batch.prompt_lengths.max())
    ids = pad_sequence(
        prompts,
        batch_first=True,
        padding_value=float(pad),
        padding_side=side,  # type: ignore[arg-type]
    )
    mask = pad_sequence(
        [torch.ones_like(prompt) for prompt in prompts], batch_first=True, padding_side=side
    )
    sampling: dict[str, Any] = {}
    if seed is not None:
        torch.manual_seed(seed)
        sampling = {"do_sample": True, "top_k": 0}
    written = model.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
        **sampling,
    )
    return tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    return {name: _interval([row[name] for row in rows]) for name in rows[0]}


def _interval(values: Sequence[float]) -> dict[str, float]:
    return bootstrap_interval(np.asarray(values, float))._asdict()
