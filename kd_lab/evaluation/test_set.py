"""The held-out conversations: prompts to answer, and the references that answered them."""

import logging
from typing import TYPE_CHECKING, NamedTuple

from datasets import Dataset

from kd_lab.data.conversations import DataArguments, load_conversations
from kd_lab.data.examples import generation_prompts, training_examples
from kd_lab.teacher.packed_rows import PackedRows

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class TestSet(NamedTuple):
    """n held-out conversations, without and with their last answer."""

    prompts: list[list[int]]
    last_messages: list[str]  # what each prompt asks last
    references: list[str]  # how it was answered
    rows: PackedRows  # of the whole conversations


def load_test_set(
    data: DataArguments,
    tokenizer: "PreTrainedTokenizerBase",
    max_prompt_length: int,
    max_length: int,
) -> TestSet:
    """The test conversations that end with an answer, and are not too long.

    Raises:
        ValueError: none is left.
    """
    conversations = load_conversations(data)["test"]
    prompts, dropped = generation_prompts(conversations, tokenizer, max_prompt_length)
    answered = [row for row in prompts.to_list() if row["reference"] is not None]
    dropped = dropped | {"no answer to compare with": len(prompts) - len(answered)}
    for reason, count in dropped.items():
        if count:
            logger.warning("left out %s test conversations: %s", f"{count:,}", reason)
    if not answered:
        raise ValueError(f"no test conversation is left of {len(conversations):,}")
    whole = [
        {"messages": [*row["messages"], {"role": "assistant", "content": row["reference"]}]}
        for row in answered
    ]
    rows = training_examples(Dataset.from_list(whole), tokenizer, max_length).rows
    return TestSet(
        prompts=[row["prompt_ids"] for row in answered],
        last_messages=[row["messages"][-1]["content"] for row in answered],
        references=[row["reference"] for row in answered],
        rows=PackedRows.of(rows),
    )
