"""Where conversations come from, which are taken, and that none is tested on that is trained.

Sources: the toy language (kd_lab.data.toy_language), UltraChat as in the post, or files of one's
own. Training conversations are drawn by seed, and more of one seed are the same ones and more
besides. No training conversation has the prompt of a test conversation: those that do are dropped
from training and counted.
"""

import hashlib
import logging
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset

from kd_lab.data import toy_language
from kd_lab.data.conversation_files import check_manifest, find_files, read_conversations
from kd_lab.data.messages import Message

logger = logging.getLogger(__name__)

ULTRACHAT = "HuggingFaceH4/ultrachat_200k"
ULTRACHAT_REVISION = "8049631c405ae6576f93f445c6b8166f76f5505a"
NAMED = ("toy", "ultrachat")

# How many are drawn from the named sources if nothing is said; of files, all.
DRAWN = {"train": 20_000, "test": 1_000}
HELD_OUT = 0.05  # share of the prompts of files without a test split


@dataclass
class DataArguments:
    """Which conversations to train and to test on."""

    dataset: str = field(
        default="toy",
        metadata={
            "help": "toy (the embedded language), ultrachat (HuggingFaceH4/ultrachat_200k), a "
            ".jsonl or .parquet file of {'messages': [{'role', 'content'}, ...]} rows, or a folder "
            "of them (as `kd-lab data` writes it)."
        },
    )
    test_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Test conversations from another source. Default: the test split of dataset; "
            "for files without one, a twentieth of their prompts, held out by seed."
        },
    )
    num_conversations: int | None = field(
        default=None,
        metadata={
            "help": "Training conversations to draw. Default: 20,000 of toy and ultrachat, all of "
            "files."
        },
    )
    num_test_conversations: int | None = field(
        default=None,
        metadata={
            "help": "Test conversations to draw. Default: 1,000 of toy and ultrachat, all of files."
        },
    )
    conversation_seed: int = field(
        default=0, metadata={"help": "Seed of the draw (and of the toy language)."}
    )
    two_turn_share: float = field(
        default=0.0,
        metadata={"help": "Toy language only: share of conversations with a second question."},
    )


class Drawn(NamedTuple):
    """The conversations of a run, and how many training rows were passed over for them."""

    conversations: DatasetDict
    overlapping: int  # have the prompt of a test conversation


def check_data_arguments(args: DataArguments) -> None:
    """Refuse what can be refused before anything is loaded.

    Raises:
        ValueError: a source that does not exist, or a number out of range.
    """
    for name in ("num_conversations", "num_test_conversations"):
        if (count := getattr(args, name)) is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")
    if not 0 <= args.conversation_seed < 2**32:
        raise ValueError(f"conversation_seed must lie in [0, 2^32), not {args.conversation_seed}")
    if not 0 <= args.two_turn_share <= 1:
        raise ValueError(f"two_turn_share must lie in [0, 1], not {args.two_turn_share}")
    if args.two_turn_share and "toy" not in (args.dataset, args.test_dataset):
        raise ValueError(f"two_turn_share is for the toy language, and dataset is {args.dataset}")
    for source in (args.dataset, args.test_dataset):
        if source is not None and source not in NAMED:
            _files(source)


def load_conversations(args: DataArguments) -> DatasetDict:
    """The conversations to train and to test on: "train" and "test", of one column ``messages``.

    Rows are in the source's order where all of a split is taken, else in that of the draw.

    Raises:
        ValueError: as ``check_data_arguments``; a broken row (``FILE:LINE: what is wrong``), or
            fewer conversations than were asked for.
    """
    return draw_conversations(args).conversations


def draw_conversations(args: DataArguments) -> Drawn:
    """``load_conversations``, and how many training rows were dropped on the way."""
    check_data_arguments(args)
    train_pool, test_pool = _pools(args)
    seed = args.conversation_seed
    test = _draw(test_pool, _count(args, "test"), seed, set(), "test")
    # Compared with the whole test split, not with what is drawn of it: what is trained must not
    # depend on how much is tested.
    test_prompts = {prompt_key(messages) for messages in test_pool["messages"]}
    train = _draw(train_pool, _count(args, "train"), seed, test_prompts, "training")
    if train.overlapping:
        logger.warning(
            "dropped %s training conversations that begin as a test conversation does",
            f"{train.overlapping:,}",
        )
    return Drawn(DatasetDict(train=train.rows, test=test.rows), train.overlapping)


def prompt_key(messages: Iterable[Message]) -> str:
    """What a conversation asks first, however it is written: all up to the first answer.

    Two conversations of different keys differ as wholes too, so that comparing keys is enough.
    """
    before = takewhile(lambda message: message["role"] != "assistant", messages)
    text = " ".join(message["content"] for message in before)
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _pools(args: DataArguments) -> tuple[Dataset, Dataset]:
    """All conversations to draw from, to train and to test on."""
    for source in (args.dataset, args.test_dataset):
        if source is not None and source not in NAMED:
            check_manifest(Path(source).expanduser())
    train = _pool(args.dataset, "train", args)
    if args.test_dataset is not None:
        return train, _pool(args.test_dataset, "test", args)
    if args.dataset in NAMED or _files(args.dataset)["test"]:
        return train, _pool(args.dataset, "test", args)
    return _hold_out(train, args)


def _pool(source: str, split: Literal["train", "test"], args: DataArguments) -> Dataset:
    if source == "toy":
        # Another seed for the test rows: one stream would answer both splits alike.
        seed = args.conversation_seed + (2**32 if split == "test" else 0)
        count = _count(args, split) or 0
        rows = toy_language.conversations(count, seed, split, args.two_turn_share)
        return Dataset.from_list(rows)
    if source == "ultrachat":
        rows = load_dataset(ULTRACHAT, revision=ULTRACHAT_REVISION, split=f"{split}_sft")
        return rows.select_columns("messages")
    files = _files(source)
    if split == "train" and not files["train"]:
        raise ValueError(f"{source} holds test files only, and nothing to train on")
    return read_conversations(files[split] or files["train"])


def _files(source: str) -> dict[str, list[Path]]:
    try:
        return find_files(Path(source).expanduser())
    except FileNotFoundError:
        raise ValueError(
            f"no such file or folder: {source} (nor is it one of {', '.join(NAMED)})"
        ) from None


def _hold_out(pool: Dataset, args: DataArguments) -> tuple[Dataset, Dataset]:
    """Split by prompt: rows of one prompt stay together, so that no test prompt is trained."""
    keys = [prompt_key(messages) for messages in pool["messages"]]

    def draw(key: str) -> str:
        return hashlib.sha256(f"{args.conversation_seed} {key}".encode()).hexdigest()

    prompts = sorted(set(keys), key=draw)
    if len(prompts) < 2:
        raise ValueError(
            f"{args.dataset}: all conversations begin alike, so that none can be held out to test "
            "on; give --test_dataset"
        )
    held_out = set(prompts[: max(1, round(HELD_OUT * len(prompts)))])
    return (
        pool.select([i for i, key in enumerate(keys) if key not in held_out]),
        pool.select([i for i, key in enumerate(keys) if key in held_out]),
    )


def _count(args: DataArguments, split: Literal["train", "test"]) -> int | None:
    """How many to draw; None for all."""
    if split == "train":
        asked, source = args.num_conversations, args.dataset
    else:
        asked, source = args.num_test_conversations, args.test_dataset or args.dataset
    return asked or (DRAWN[split] if source in NAMED else None)


class _Rows(NamedTuple):
    rows: Dataset
    overlapping: int


def _draw(pool: Dataset, count: int | None, seed: int, exclude: set[str], what: str) -> _Rows:
    """The first ``count`` rows of a permutation by seed, passing over those of some prompts."""
    order = list(range(len(pool)))
    if count is not None and count < len(pool):
        order = np.random.default_rng(seed).permutation(len(pool)).tolist()
    kept: list[int] = []
    overlapping = 0
    for i, messages in zip(order, pool.select(order)["messages"], strict=True):
        if exclude and prompt_key(messages) in exclude:
            overlapping += 1
        else:
            kept.append(i)
        if len(kept) == count:
            break
    if len(kept) < (count or 1):
        dropped = f", besides {overlapping:,} that begin as a test one does" if overlapping else ""
        raise ValueError(
            f"{count or 1:,} {what} conversations wanted, but there are {len(kept):,}{dropped}"
        )
    return _Rows(pool.select(kept), overlapping)
