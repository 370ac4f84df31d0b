"""The answers that are measured: written once, stored in shards, and reused.

A folder's name ends in a hash of everything that decides its answers: the model's weights, the
prompts, the sampling, the seed. The same request always finds the same folder. All students share
their teacher's answers. A retrained student has new weights, hence a new folder. A killed run goes
on with its last shard.

Answers can also come from ``kd-lab generate --split test``, which has vLLM and several GPUs.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_lab.data.examples import say
from kd_lab.data.shards import ShardStore
from kd_lab.files import sha256_of
from kd_lab.model_identity import check_same_teacher
from kd_lab.rollout.sampling import Completion, Sampling

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel

ROWS_PER_SHARD = 512


@dataclass(frozen=True)
class AnswerRequest:
    """Everything that decides the answers."""

    prompts: list[list[int]]  # token ids
    answers_per_prompt: int
    sampling: Sampling
    seed: int
    eos_token_ids: list[int]  # any of these ends an answer
    vocab_size: int  # only tokens below it are drawn

    def settings(self) -> dict[str, Any]:
        """The request as JSON values, with a hash of the prompts."""
        others = {k: v for k, v in asdict(self).items() if k != "prompts"}
        return {"prompts_sha256": _hash(self.prompts), **others}


def stored_or_written(
    folder: Path,
    request: AnswerRequest,
    model: "PreTrainedModel",
    identity: dict[str, str],
    batch_size: int,
    advance: Callable[[int], object] = lambda done: None,
    *,
    compiled: bool = False,
) -> list[list[Completion]]:
    """The model's answers; only those missing in ``folder`` are written.

    Args:
        folder: holds one folder of shards for every model and request.
        identity: of the model, from ``kd_lab.model_identity.model_identity``.
        batch_size: answers written at a time.
        advance: called with the number of answers finished since the last call.
        compiled: whether the step of one token is compiled.
    Returns:
        ``answers_per_prompt`` answers to each prompt.
    """
    from kd_lab.rollout.transformers_engine import write_answers

    def progress(finished: int, tokens: int) -> None:
        advance(finished)

    # A prompt's answers are rows of their own, and so are their random numbers.
    rows = [prompt for prompt in request.prompts for _ in range(request.answers_per_prompt)]
    dtype = str(model.dtype).removeprefix("torch.")
    settings = {"writer": identity, "dtype": dtype, **request.settings()}
    store = ShardStore.create(
        folder / f"{Path(identity['name']).name}-{_hash(settings)[:12]}",
        "answers",
        settings,
        num_rows=len(rows),
        rows_per_shard=ROWS_PER_SHARD,
        suffix=".jsonl",
    )
    missing = store.missing()
    advance(len(rows) - sum(len(shard.rows) for shard in missing))
    for shard in missing:
        written = write_answers(
            model,
            [rows[i] for i in shard.rows],
            request.sampling,
            eos_token_ids=request.eos_token_ids,
            seed=request.seed,
            batch_size=batch_size,
            vocab_size=request.vocab_size,
            first_row=shard.rows.start,
            compiled=compiled,
            progress=progress,
        )
        lines = [{"completion_ids": tokens, "finished": finished} for tokens, finished in written]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        tokens = sum(len(completion.tokens) for completion in written)
        store.write(shard, partial(Path.write_text, data=text, encoding="utf-8"), tokens)
    answers = _completions(store)
    _say_cut(answers, identity["name"], request.sampling.max_new_tokens)
    k = request.answers_per_prompt
    return [answers[start : start + k] for start in range(0, len(answers), k)]


def generated_answers(
    folder: str | Path, identity: dict[str, str], prompts: list[list[int]]
) -> tuple[list[list[Completion]], Sampling]:
    """The answers of ``kd-lab generate`` to the same prompts, and how they were drawn.

    Raises:
        ValueError: the folder holds no finished answers, or those of another model or to other
            prompts.
    """
    store = ShardStore.open(folder, "answers")
    check_same_teacher(store.settings["teacher"], identity)
    if store.settings["prompts_sha256"] != _hash(prompts):
        raise ValueError(
            f"{folder} answers other prompts than those of this evaluation: generate them with "
            "--split test and the same dataset, max_prompt_length and number of conversations"
        )
    answers, sampling = _completions(store), Sampling(**store.settings["sampling"])
    _say_cut(answers, identity["name"], sampling.max_new_tokens)
    return [[answer] for answer in answers], sampling


def answer_texts(
    tokenizer: Any, answers: Sequence[Sequence[Completion]], *, skip_special_tokens: bool
) -> list[list[str]]:
    """The answers' words, without the tokens that end them."""
    return [
        tokenizer.batch_decode(
            [answer.tokens[:-1] if answer.finished else answer.tokens for answer in of_prompt],
            skip_special_tokens=skip_special_tokens,
        )
        for of_prompt in answers
    ]


def _say_cut(answers: list[Completion], writer: str, max_new_tokens: int) -> None:
    """Warn how many answers have no end."""
    if cut := sum(not answer.finished for answer in answers):
        message = "%s of %s answers of %s have no end: they are cut at max_new_tokens %s"
        say(message, cut, len(answers), writer, max_new_tokens)


def _completions(store: ShardStore) -> list[Completion]:
    # As bytes: of text, lines would end at U+2028 as well.
    rows = (json.loads(line) for path in store.paths() for line in path.read_bytes().splitlines())
    return [Completion(row["completion_ids"], row["finished"]) for row in rows]


def _hash(described: object) -> str:
    return sha256_of(json.dumps(described))
