r"""Conversations in, token ids and labels out: which tokens a student is trained on.

We train the assistant's words and tool calls of every turn, and the token that ends them. We never
train other turns, headers, the line break after an answer, or padding. To hold this to the token
under any chat template, we tokenise a conversation in pieces (rendering.py). So no token straddles
a border, even if an answer begins with a line break. And ``input_ids[:prompt_length]`` is exactly
the prompt of generation.

Commands take their rows from row_store.py, which makes them once per machine.
"""

import logging
import os
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset

from kd_lab.data.row_kinds import CUT, Prompts, RowKind, TrainingRows
from kd_lab.data.tokenising import Batch, tokenised
from kd_lab.vocabulary import IGNORED

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed
    from collections.abc import Collection, Iterable

    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

REASONS = 8  # at most so many reasons are named; the rest is counted


class Examples(NamedTuple):
    """Rows, how many conversations gave none, and how the others were changed."""

    rows: Dataset
    dropped: dict[str, int]  # reason -> conversations
    noted: dict[str, int]  # what was changed, cut or not trained -> how often


def training_examples(
    conversations: Dataset, tokenizer: "PreTrainedTokenizerBase", max_length: int | None = None
) -> Examples:
    """One training row per conversation: a row of the column ``messages``, perhaps with ``tools``.

    The columns are ``input_ids``, ``labels`` and ``prompt_length``. ``labels[i]`` is
    ``input_ids[i]`` where it is trained and -100 elsewhere; it is not shifted. ``prompt_length`` is
    the index of the first trained token of the last trained answer. So
    ``input_ids[:prompt_length]`` prompts a model to write that answer anew.

    A row ends with its last trained token, and is cut to ``max_length`` tokens. trained_turns.py
    says which answers are trained. We drop and count four kinds of conversation. The chat template
    refuses it, or writes it only in part. A message contains a control token. Or no trained token
    survives ``max_length``.

    Raises:
        ValueError: the chat template does not fit (see ``training_chat_template``), or no row is
            left.
    """
    return _examples(conversations, tokenizer, TrainingRows(max_length))


def generation_prompts(
    conversations: Dataset,
    tokenizer: "PreTrainedTokenizerBase",
    max_prompt_length: int | None = None,
) -> Examples:
    """One prompt per conversation: all that comes before its last assistant turn.

    The columns are

    - ``messages`` of the prompt, and ``tools`` where the conversations have it,
    - ``prompt_ids``, with the header of the answer to come: ``input_ids[:prompt_length]`` of the
      training row,
    - ``reference``: the content of the left-out answer; None if it is not to be learnt.

    We drop and count unusable conversations, as in ``training_examples``. We also drop prompts of
    more than ``max_prompt_length`` tokens: cut short, they would ask something else.

    Raises:
        ValueError: as ``training_examples``.
    """
    return _examples(conversations, tokenizer, Prompts(max_prompt_length))


def collected(batches: "Iterable[Batch]") -> Examples:
    """The rows of all batches, in memory."""
    # Not Dataset.map: it would keep a copy on disk, and find it again without counting.
    tables, dropped, noted = [], Counter[str](), Counter[str]()
    for batch in batches:
        tables.append(batch.rows)
        dropped.update(batch.dropped)
        noted.update(batch.noted)
    return Examples(Dataset(pa.concat_tables(tables)), dict(dropped), dict(noted))


def rows_without_end(rows: Dataset, end_tokens: "Collection[int]") -> int:
    """How many training rows were cut in the middle of an answer."""
    table = rows.with_format("arrow")[:]
    cut = 0
    for labels in table["labels"].chunks:
        last = np.asarray(labels.values)[np.asarray(labels.offsets)[1:] - 1]  # no row is empty
        cut += int(((last != IGNORED) & ~np.isin(last, [*end_tokens])).sum())
    return cut


def say_rows_without_end(rows: Dataset, end_tokens: "Collection[int]", what: str) -> None:
    """Warn how many rows have no end, if any. ``what`` names the rows and their cut."""
    if count := rows_without_end(rows, end_tokens):
        say("%s of %s %s have no end: they are cut", count, len(rows), what)


def say_what_became(
    examples: Examples, total: int, tokenizer: "PreTrainedTokenizerBase", what: str = ""
) -> None:
    """Warn how many of ``total`` conversations were left out, and how the rest were changed.

    Args:
        what: "training" or "test" conversations.
    """
    conversations = f"{what} conversations".strip()
    if left_out := sum(examples.dropped.values()):
        say("left out %s of %s %s (%s)", left_out, total, conversations, listed(examples.dropped))
    noted = {reason: count for reason, count in examples.noted.items() if reason != CUT}
    if noted:
        say("in the other %s %s: %s", total - left_out, conversations, listed(noted))
    if cut := examples.noted.get(CUT):
        no_end = rows_without_end(examples.rows, [tokenizer.eos_token_id])
        rows = f"{what} rows".strip()
        told = "%s of %s %s are cut at max_length; %s of them have no end, the rest end earlier"
        say(told, cut, len(examples.rows), rows, no_end)


def listed(counts: dict[str, int]) -> str:
    """The commonest reasons with their counts, and the number of others."""
    commonest = Counter(counts).most_common()
    named = [f"{reason}: {count:,}" for reason, count in commonest[:REASONS]]
    if others := commonest[REASONS:]:
        named.append(f"{len(others):,} other reasons: {sum(n for _, n in others):,}")
    return "; ".join(named)


class NoRows(ValueError):
    """No conversation can be used; ``dropped`` has the reasons."""

    def __init__(self, total: int, dropped: dict[str, int], what: str = "") -> None:
        conversations = f"{what} conversations".strip()
        super().__init__(f"none of {total:,} {conversations} can be used ({listed(dropped)})")
        self.dropped = dropped


def _examples(
    conversations: Dataset, tokenizer: "PreTrainedTokenizerBase", kind: RowKind
) -> Examples:
    examples = collected(tokenised(conversations, tokenizer, kind, processes=1))
    if not len(examples.rows):
        raise NoRows(len(conversations), examples.dropped)
    say_what_became(examples, len(conversations), tokenizer)
    return examples


def say(message: str, *values: object) -> None:
    """A warning, from one process of each machine; whole numbers with commas."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        shown = (f"{value:,}" if isinstance(value, int) else value for value in values)
        logger.warning(message, *shown)
