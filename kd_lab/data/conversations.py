"""The conversations of a run: their source, their draw, and a check that no test prompt is trained.

Sources are the toy language (kd_lab.data.toy_language), UltraChat as in the post, any dataset of
the hub, or files. A seed draws the conversations: with the same seed, asking for more returns the
same first ones, then new ones. Who asks for all rows of a source, by their number or by none, gets
them in the source's order: what ``kd-lab data`` has drawn into a folder is not drawn again. A
training conversation with the prompt of a test conversation is dropped and counted.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from datasets import Dataset, DatasetDict

from kd_lab.data import toy_language
from kd_lab.data.held_out import HELD_OUT, hold_out
from kd_lab.data.messages import prompt_key
from kd_lab.data.sources import (
    NAMED,
    Source,
    check_source,
    read_source,
    source_identity,
)
from kd_lab.files import sha256_of_file

logger = logging.getLogger(__name__)

# The default number drawn from the named sources; other sources give all.
DRAWN = {"train": 20_000, "test": 1_000}
MOST = 10_000_000  # of either; more would fill the memory without a word

Split = Literal["train", "test"]
BOTH: tuple[Split, ...] = ("train", "test")


@dataclass
class DataArguments:
    """The conversations to train and to test on."""

    dataset: str = field(
        default="toy",
        metadata={
            "help": "toy (the embedded language), ultrachat (HuggingFaceH4/ultrachat_200k), any "
            "dataset of the hub by name, or a file or folder. Files are .jsonl, .json, .parquet or "
            "their .gz, in the forms messages, ShareGPT, prompt/completion, instruction/output."
        },
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Hub: the dataset's configuration."}
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Hub: the dataset's branch, tag or commit."}
    )
    train_split: str | None = field(
        default=None,
        metadata={"help": "Hub: the split to train on. Default: the one whose name says train."},
    )
    test_split: str | None = field(
        default=None,
        metadata={
            "help": "Hub: the split to test on. Default: the one whose name says test, else "
            "validation."
        },
    )
    test_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Test conversations from another source. Default: the test split of dataset."
        },
    )
    test_share: float | None = field(
        default=None,
        metadata={
            "help": "Without a test split: the share of prompts held out by seed. Default: a "
            "twentieth where the command tests, nothing where it only trains."
        },
    )
    num_conversations: int | None = field(
        default=None,
        metadata={
            "help": "Training conversations to draw. Default: 20,000 of toy and ultrachat, all of "
            "others. All of them keep their order."
        },
    )
    num_test_conversations: int | None = field(
        default=None,
        metadata={
            "help": "Test conversations to draw. Default: 1,000 of toy and ultrachat, all of "
            "others."
        },
    )
    conversation_seed: int = field(
        default=0, metadata={"help": "Seed of the draw (and of the toy language)."}
    )
    two_turn_share: float = field(
        default=0.0,
        metadata={"help": "Toy language only: share of conversations with a second question."},
    )
    ignore_keys: list[str] | None = field(
        default=None,
        metadata={"help": "Unknown keys of rows and messages to ignore."},
    )


class Drawn(NamedTuple):
    """The conversations of a run, and notes for the user on their draw."""

    conversations: DatasetDict  # the wanted splits
    overlapping: int  # training rows dropped: they have the prompt of a test conversation
    notes: list[str]  # a sentence each


def check_data_numbers(args: DataArguments) -> None:
    """Refuse numbers out of their range; no source needs to exist.

    Raises:
        ValueError: names the option.
    """
    for name in ("num_conversations", "num_test_conversations"):
        if (count := getattr(args, name)) is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")
        if count is not None and count > MOST:
            raise ValueError(f"{name} must be at most {MOST:,}, not {count:,}")
    if not 0 <= args.conversation_seed < 2**32:
        raise ValueError(f"conversation_seed must lie in [0, 2^32), not {args.conversation_seed}")
    if not 0 <= args.two_turn_share <= 1:
        raise ValueError(f"two_turn_share must lie in [0, 1], not {args.two_turn_share}")
    if args.test_share is not None and not 0 < args.test_share < 1:
        raise ValueError(f"test_share must lie between 0 and 1, not {args.test_share}")


def check_data_arguments(args: DataArguments) -> None:
    """Refuse what can be refused before anything is loaded.

    Raises:
        ValueError: a source that does not exist, or a number out of range.
    """
    check_data_numbers(args)
    if args.two_turn_share and "toy" not in (args.dataset, args.test_dataset):
        raise ValueError(f"two_turn_share is for the toy language, and dataset is {args.dataset}")
    for source in (source_of(args), _test_source(args)):
        if source is not None:
            check_source(source)
    if args.test_share is not None and (args.test_dataset is not None or args.dataset in NAMED):
        raise ValueError("test_share is for one source without a test split")


def load_conversations(args: DataArguments, splits: Sequence[Split] = BOTH) -> DatasetDict:
    """The conversations of the splits that a command uses, of one column ``messages``.

    Rows keep the source's order where all of a split is taken, else the order of the draw. The
    notes of ``draw_conversations`` are logged.

    Raises:
        ValueError: as ``check_data_arguments``; a broken row (``FILE:LINE: what is wrong``), or
            fewer conversations than wanted.
    """
    drawn = draw_conversations(args, splits)
    for note in drawn.notes:
        logger.warning("%s", note)
    return drawn.conversations


def draw_conversations(args: DataArguments, splits: Sequence[Split] = BOTH) -> Drawn:
    """``load_conversations``, with the notes and without logging them."""
    check_data_arguments(args)
    train_pool, test_pool, notes = _pools(args, splits)
    seed, drawn, overlapping = args.conversation_seed, {}, 0
    if "test" in splits:
        drawn["test"] = _draw(test_pool, _count(args, "test"), seed, set(), "test").rows
    if "train" in splits:
        # Compared with the whole test split, not only with its draw: the training set must not
        # depend on the size of the test set.
        tested = {prompt_key(messages) for messages in test_pool["messages"]}
        train = _draw(train_pool, _count(args, "train"), seed, tested, "training")
        drawn["train"], overlapping = train.rows, train.overlapping
        if overlapping:
            notes.append(
                f"dropped {overlapping:,} training conversations that begin as a test conversation "
                "does"
            )
    return Drawn(DatasetDict({s: drawn[s] for s in BOTH if s in drawn}), overlapping, notes)


def as_split(name: str) -> Split:
    """A split by its name.

    Raises:
        ValueError: it is neither train nor test.
    """
    for split in BOTH:
        if name == split:
            return split
    raise ValueError(f"split must be one of {', '.join(BOTH)}, not {name!r}")


def sources(args: DataArguments) -> dict[str, str]:
    """The exact sources of the conversations: a checksum per file, or a commit of the hub.

    Raises:
        ValueError: a source is missing, or cannot be reached without a network.
    """
    identities: dict[str, str] = {}
    for source in (source_of(args), _test_source(args)):
        if source is not None:
            is_toy = source.name == "toy"
            toy = {"toy": sha256_of_file(Path(toy_language.__file__))} if is_toy else {}
            identities |= toy or source_identity(source)
    return identities


class _Drawable(NamedTuple):
    """All conversations to draw from; ``test`` is empty for a command that does not test."""

    train: Dataset
    test: Dataset
    notes: list[str]


def _pools(args: DataArguments, splits: Sequence[Split]) -> _Drawable:
    """The rows of each split; a split outside ``splits`` may be missing."""
    nothing = Dataset.from_dict({"messages": []})
    train, test, notes = None, None, list[str]()
    other = _test_source(args)
    if "train" in splits or other is None:
        train, test, notes = _read(source_of(args), args, "train" in splits, other is None)
    if other is not None:
        rest, test, more = _read(other, args, False, True)
        test, notes = rest if test is None else test, notes + more
    if train is None and "train" in splits:
        raise ValueError(
            f"{args.dataset}: all names in it say test or validation, so there is nothing to train "
            "on; rename what is to be trained"
        )
    if test is not None:
        if args.test_share is not None:
            raise ValueError(f"test_share is given, and {args.dataset} has a test split already")
        return _Drawable(nothing if train is None else train, test, notes)
    assert train is not None
    share = args.test_share or (HELD_OUT if "test" in splits else None)
    if share is None:
        return _Drawable(train, nothing, notes)
    kept, held_out = hold_out(train, share, args.conversation_seed, args.dataset)
    if args.test_share is None:
        notes.append(
            f"{args.dataset}: held out {len(held_out):,} of {len(train):,} conversations to test "
            "on, since there is no test split (test_share says how many; test_dataset names others)"
        )
    return _Drawable(kept, held_out, notes)


def _read(
    source: Source, args: DataArguments, train: bool, test: bool
) -> tuple[Dataset | None, Dataset | None, list[str]]:
    if source.name != "toy":
        return read_source(source, train=train, test=test)
    return _toy("train", args) if train else None, _toy("test", args) if test else None, []


def source_of(args: DataArguments) -> Source:
    """The source of ``dataset``."""
    return Source(
        args.dataset,
        args.dataset_config,
        args.dataset_revision,
        args.train_split,
        args.test_split,
        args.ignore_keys or (),
    )


def _test_source(args: DataArguments) -> Source | None:
    if args.test_dataset is None:
        return None
    return Source(args.test_dataset, ignore_keys=args.ignore_keys or ())


def _toy(split: Split, args: DataArguments) -> Dataset:
    # Another seed for the test rows: one stream would answer both splits alike.
    seed = args.conversation_seed + (2**32 if split == "test" else 0)
    count = _count(args, split) or 0
    return Dataset.from_list(toy_language.conversations(count, seed, split, args.two_turn_share))


def _count(args: DataArguments, split: Split) -> int | None:
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
    """The first ``count`` rows of a permutation by seed, without rows of excluded prompts.

    All rows are not permuted: the toy language makes as many as are drawn, and so is their order.
    """
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
