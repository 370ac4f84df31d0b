"""Datasets of the hub: any by its name, with configuration, revision and splits."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetsError

from kd_lab.data.conversation_files import KINDS, ROWS_AT_A_TIME, Row
from kd_lab.data.forms import without_filled_nulls
from kd_lab.data.splits import sort_by_split
from kd_lab.hub import hub_commit

LOCAL = ("runs", "models", "data")  # folders of a checkout, and no owners on the hub


class HubDataset(NamedTuple):
    """A dataset by its name on the hub."""

    name: str
    config: str | None = None
    revision: str | None = None


def is_hub_name(source: str) -> bool:
    """Whether a source can be ``owner/name`` on the hub, rather than a missing path."""
    owner, _, name = source.partition("/")
    return (
        re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None
        and owner not in LOCAL
        and not Path(owner).exists()
        and not name.removesuffix(".gz").endswith((*KINDS, ".txt", ".csv"))
    )


def load_hub_dataset(hub: HubDataset) -> DatasetDict:
    """All splits of a dataset, at the commit that its revision names now.

    Raises:
        ValueError: there is no such dataset, configuration or revision. Or there is no network and
            no cached copy; the message has the command that fetches it beforehand.
    """
    commit = hub_commit("dataset", hub.name, hub.revision)
    try:
        loaded = load_dataset(hub.name, hub.config, revision=commit or hub.revision)
    except (OSError, ValueError, DatasetsError) as error:
        if commit is None:
            folder = f"data/{hub.name.rpartition('/')[2]}"
            raise ValueError(
                f"dataset: no network, and {hub.name} is not in this machine's cache. Where there "
                f"is one, run `kd-lab data --dataset {hub.name} --output_dir {folder}`, copy the "
                f"folder here, and give --dataset {folder}"
            ) from error
        raise ValueError(f"dataset {hub.name}: {' '.join(str(error).split())}") from error
    return loaded


def hub_identity(hub: HubDataset) -> str:
    """The exact source of a dataset's rows: its commit, or the fingerprints of the cached copy.

    Raises:
        ValueError: as ``load_hub_dataset``.
    """
    commit = hub_commit("dataset", hub.name, hub.revision)
    if commit is None:
        commit = "+".join(part._fingerprint for part in load_hub_dataset(hub).values())
    return f"{hub.config or 'default'}@{commit}"


def choose_splits(
    hub: HubDataset, names: list[str], train: str | None, test: str | None
) -> tuple[str, str | None]:
    """The split to train on and the one to test on; None if no name says so.

    Args:
        train, test: the names given by the user.
    Raises:
        ValueError: there is no such split, or the names leave the training split open.
    """
    listed = ", ".join(names)
    for key, asked in (("train_split", train), ("test_split", test)):
        if asked is not None and asked not in names:
            raise ValueError(f"{key}: {hub.name} has no split {asked!r}; it has {listed}")
    if train is not None and train == test:
        raise ValueError(f"train_split and test_split are both {train}: what is tested is trained")
    found = sort_by_split([PurePath(name) for name in names if name not in (train, test)])
    chosen = {}
    for split, asked in (("train", train), ("test", test)):
        named = [path.name for path in found[split]]
        if asked is not None:
            chosen[split] = asked
        elif len(named) == 1 or split in named:
            chosen[split] = split if split in named else named[0]
        elif named or split == "train":
            raise ValueError(f"{hub.name} has the splits {listed}: give --{split}_split")
    return chosen["train"], chosen.get("test")


def hub_rows(hub: HubDataset, split: str, rows: Dataset) -> Iterator[Row]:
    """The rows of one split, unchecked, as from a file."""
    number = 0
    for table in rows.with_format("arrow").iter(ROWS_AT_A_TIME):
        for value in table.to_pylist():
            number += 1
            yield Row(without_filled_nulls(value), f"{hub.name} ({split}):{number}")
