"""``kd-lab data``: draw conversations once and write them to a folder, with their sources.

    kd-lab data --dataset ultrachat --output_dir data/ultrachat
    kd-lab train --dataset data/ultrachat ...

    train.jsonl, test.jsonl    a line per conversation, {"messages": [{"role", "content"}, ...]}
    manifest.json              settings, sources, counts, and the SHA-256 of both files

The folder gets its name once it is whole, so a killed run leaves no such folder. The same command
again finds it and does nothing. A command with other settings or changed sources is refused.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.console import Console
from rich.progress import track

import kd_lab
from kd_lab.data.conversations import (
    DataArguments,
    check_data_arguments,
    draw_conversations,
    sources,
)
from kd_lab.data.manifest import KIND, MANIFEST, check_manifest
from kd_lab.data.messages import json_row
from kd_lab.files import (
    check_replaceable,
    is_empty,
    only_one_at_work,
    sealed,
    sha256_of_file,
    whole_folder,
)

logger = logging.getLogger(__name__)


@dataclass
class PrepareArguments:
    """The folder to write."""

    output_dir: str = field(metadata={"help": "The folder to write; it is made if need be."})


ARGUMENTS = (DataArguments, PrepareArguments)


def run(data: DataArguments, prepare: PrepareArguments) -> None:
    """Write the conversations, unless they exist already, and say so."""
    folder = Path(prepare.output_dir)
    with only_one_at_work(folder):
        manifest, is_new = prepare_data(data, folder)
    train, test = (f"{file['conversations']:,}" for file in manifest["files"].values())
    done = "wrote" if is_new else "nothing to do, already there:"
    print(f"{done} {prepare.output_dir} ({train} training and {test} test conversations)")


def prepare_data(data: DataArguments, folder: Path) -> tuple[dict[str, Any], bool]:
    """Write the conversations to a folder, unless it holds them already.

    Returns:
        the manifest, and whether anything was written.
    Raises:
        ValueError: the folder holds other conversations (names the first setting or source that
            differs), changed ones, or other files; or a disk is mounted there; or as
            ``load_conversations``.
        OSError: the folder cannot be written.
    """
    check_data_arguments(data)
    wanted = {"settings": asdict(data), "sources": sources(data)}
    if folder.exists() and not is_empty(folder):
        manifest = check_manifest(folder)
        if manifest is None:
            raise ValueError(
                f"{folder} holds something else, without a {MANIFEST} of kd-lab data; give another "
                "--output_dir"
            )
        for of, values in wanted.items():
            for key in {**manifest[of], **values}:
                before, now = manifest[of].get(key), values.get(key)
                if before != now:
                    raise ValueError(
                        f"{folder} was written with {key} = {before}, and now it is {now}: give "
                        "another --output_dir, or delete the folder"
                    )
        return manifest, False
    check_replaceable(folder)
    drawn = draw_conversations(data)
    for note in drawn.notes:
        logger.warning("%s", note)
    with whole_folder(folder) as part:
        files = {}
        for split, conversations in drawn.conversations.items():
            file = part / f"{split}.jsonl"
            _write(conversations, file)
            files[file.name] = {"conversations": len(conversations), "sha256": sha256_of_file(file)}
        manifest = {
            "kind": KIND,
            **wanted,
            "dropped_as_in_test": drawn.overlapping,
            "files": files,
            "kd_lab": kd_lab.__version__,
        }
        manifest = sealed(manifest)
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest, True


def _write(conversations: Dataset, file: Path) -> None:
    console = Console(stderr=True)
    rows = track(
        conversations,
        f"Writing {file.name}",
        total=len(conversations),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with file.open("w", encoding="utf-8") as lines:
        for row in rows:
            written = json_row(row["messages"], row.get("tools"))
            lines.write(json.dumps(written, ensure_ascii=False) + "\n")
