"""Sources of conversations with splits of their own: datasets of the hub, files and folders."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset

from kd_lab.data.conversation_files import (
    KINDS,
    as_conversations,
    find_files,
    read_conversations,
    unread_files,
)
from kd_lab.data.forms import FormReader
from kd_lab.data.hub_dataset import (
    HubDataset,
    choose_splits,
    hub_identity,
    hub_rows,
    is_hub_name,
    load_hub_dataset,
)
from kd_lab.data.manifest import check_manifest
from kd_lab.files import sha256_of_file
from kd_lab.next_step import absolute, written_by

ULTRACHAT = "HuggingFaceH4/ultrachat_200k"
ULTRACHAT_REVISION = "8049631c405ae6576f93f445c6b8166f76f5505a"
NAMED = ("toy", "ultrachat")


class Source(NamedTuple):
    """A source as the user names it: ultrachat, a name on the hub, a file or a folder."""

    name: str
    config: str | None = None  # this and the next three: of the hub only
    revision: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    ignore_keys: Collection[str] = ()

    @property
    def hub(self) -> HubDataset | None:
        """The hub's dataset of that name; None if it is a path."""
        if self.name == "ultrachat":
            return HubDataset(ULTRACHAT, None, ULTRACHAT_REVISION)
        if is_hub_name(self.name):
            return HubDataset(self.name, self.config, self.revision)
        return None

    @property
    def path(self) -> Path:
        """The file or folder of that name."""
        return Path(self.name).expanduser()

    @property
    def place(self) -> str | Path:
        """Equal for two names of one source: a folder has several spellings, a hub's name one."""
        is_name = self.name in NAMED or self.hub is not None
        return self.name if is_name else absolute(self.name)


class Pools(NamedTuple):
    """All conversations of a source; None for a split that is missing or not wanted."""

    train: Dataset | None
    test: Dataset | None
    notes: list[str]  # what a user should know, a sentence each


def check_source(source: Source) -> None:
    """Refuse a missing source, without reading it or asking the hub.

    Raises:
        ValueError: there is no such file or folder, or no file of a known kind in it.
    """
    if source.name not in NAMED and source.hub is None:
        _files(source)
    asked = {
        "dataset_config": source.config,
        "dataset_revision": source.revision,
        "train_split": source.train_split,
        "test_split": source.test_split,
    }
    if source.name == "ultrachat":  # whose revision is the post's, and whose splits can be chosen
        asked = {key: asked[key] for key in ("dataset_config", "dataset_revision")}
    elif source.hub is not None:
        asked = {}
    for key, value in asked.items():
        if value is not None:
            raise ValueError(
                f"{key} is {value}: it is for datasets of the hub by their own name, and dataset "
                f"is {source.name}"
            )


def read_source(source: Source, *, train: bool, test: bool) -> Pools:
    """The conversations of a source.

    Args:
        train, test: the wanted splits. Where there is no test split, all rows count as training
            rows and are read in either case.
    Raises:
        ValueError: a fault of a file, row or dataset; says what and where.
    """
    forms = FormReader(source.ignore_keys)
    notes = []
    if (hub := source.hub) is not None:
        loaded = load_hub_dataset(hub)
        names = choose_splits(hub, [*loaded], source.train_split, source.test_split)
        rows = {
            split: as_conversations(hub_rows(hub, name, loaded[name]), forms)
            for split, name in zip(("train", "test"), names, strict=True)
            if name is not None and (test if split == "test" else train or names[1] is None)
        }
        if source.name != "ultrachat":
            notes.append(f"trains on {names[0]!r}, tests on {names[1] or 'no split'!r}")
    else:
        check_manifest(source.path)
        files = _files(source)
        rows = {
            split: read_conversations(files[split], forms)
            for split in ("train", "test")
            if files[split] and (test if split == "test" else train or not files["test"])
        }
        if files["left_out"]:
            some = ", ".join(file.name for file in files["left_out"][:3])
            notes.append(f"left out {len(files['left_out']):,} files, of another split ({some})")
        if unread := unread_files(source.path):
            some = ", ".join(file.name for file in unread[:3])
            notes.append(
                f"did not read {len(unread):,} files ({some}): conversations come in "
                f"{', '.join(KINDS)} files or their .gz"
            )
    if source.name != "ultrachat":  # whose rows repeat their first message under `prompt`
        notes += forms.notes()
    return Pools(rows.get("train"), rows.get("test"), [f"{source.name}: {note}" for note in notes])


def has_test_split(source: Source) -> bool:
    """Whether a source names a test split.

    Raises:
        ValueError: as ``read_source``.
    """
    if source.name == "toy":
        return True
    if (hub := source.hub) is not None:
        names = [*load_hub_dataset(hub)]
        return choose_splits(hub, names, source.train_split, source.test_split)[1] is not None
    return bool(_files(source)["test"])


def source_identity(source: Source) -> dict[str, str]:
    """The exact source of the conversations: a checksum a file, or a commit.

    Raises:
        ValueError: as ``check_source``, or the hub's dataset cannot be reached.
    """
    if (hub := source.hub) is not None:
        return {hub.name: hub_identity(hub)}
    files = _files(source)
    return {str(file): sha256_of_file(file) for file in (*files["train"], *files["test"])}


def _files(source: Source) -> dict[str, list[Path]]:
    try:
        return find_files(source.path)
    except FileNotFoundError:
        raise ValueError(
            f"no such file or folder: {source.name} (nor is it one of {', '.join(NAMED)}, or "
            f"owner/name as on the hub){written_by(source.path)}"
        ) from None
