"""Which model it was: what is stored ahead of time must not be taken for another model's."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from kd_lab.files import sha256_of, sha256_of_file
from kd_lab.hub import check_model_at_hand
from kd_lab.next_step import written_by

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed
    from transformers import PreTrainedTokenizerBase

# The files that decide a model's distributions; others (optimizer states, logs) do not.
CONFIGS = ("config.json", "adapter_config.json")
WEIGHTS = (
    "model*.safetensors",
    "adapter_model*.safetensors",
    "pytorch_model*.bin",
    "adapter_model*.bin",
    "*.gguf",
)


def model_identity(name_or_path: str, revision: str | None = None) -> dict[str, str]:
    """What tells one model from another, as JSON can say it.

    Returns:
        for a local folder: its name, and the SHA-256 over its configuration and weights; for a
        model of the hub: its name, and the commit that ``revision`` (default: main) stands for.
    Raises:
        ValueError: the folder holds no model, or the hub has none of this name (or is not reached).
    """
    files = model_files(name_or_path)
    if files is None:
        return {"name": name_or_path, "commit": _hub_commit(name_or_path, revision)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets go of the interpreter
        digests = pool.map(sha256_of_file, files)
    named = [(path.name, digest) for path, digest in zip(files, digests, strict=True)]
    return {"name": Path(name_or_path).resolve().name, "sha256": _hash_of(named)}


def model_files(name_or_path: str) -> list[Path] | None:
    """The files that decide a model's distributions; None for a name on the hub.

    Raises:
        ValueError: the folder holds no model, or a path leads nowhere.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        if folder.parent.is_dir() and folder.parent != Path():  # a slip in a path, no hub name
            raise ValueError(f"there is no folder {folder}{written_by(folder)}")
        return None
    configs = [folder / name for name in CONFIGS if (folder / name).exists()]
    weights = sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)})
    if not configs or not weights:
        missing = "weights" if configs else "config.json"
        raise ValueError(f"{folder} holds no model: it has no {missing}")
    return configs + weights


def check_same_teacher(stored: dict[str, str], now: dict[str, str]) -> None:
    """Refuse what was stored from another model than the one given now.

    A folder is known by its contents, so that it may have been moved or renamed.

    Args:
        stored, now: from ``model_identity``.
    Raises:
        ValueError: they differ, or one is a folder and the other of the hub, which cannot be told.
    """
    keys = ("sha256",) if "sha256" in stored else ("name", "commit")
    if any(stored[key] != now.get(key) for key in keys):
        raise ValueError(
            f"what is stored comes from the teacher {_describe(stored)}, and the teacher given now "
            f"is {_describe(now)}: give the same one, or store again in another folder"
        )


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 of what every id means and of which token ends an answer.

    Stored token ids mean the same wherever this is the same. The chat template and the way text is
    split are left out: their work is done once ids are stored.
    """
    by_id = sorted((i, token) for token, i in tokenizer.get_vocab().items())
    return _hash_of([by_id, tokenizer.eos_token])


def _hub_commit(name: str, revision: str | None) -> str:
    from transformers import AutoConfig

    check_model_at_hand("model", name, revision)
    try:
        commit = AutoConfig.from_pretrained(name, revision=revision)._commit_hash
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"no model {name!r}: there is no such folder, and the hub says: {reason}"
        ) from error
    if commit is None:
        raise ValueError(f"the hub names no commit for the model {name!r}")
    return commit


def _describe(identity: dict[str, str]) -> str:
    if "sha256" in identity:
        return f"{identity['name']} (SHA-256 {identity['sha256'][:12]}...)"
    return f"{identity['name']} (commit {identity['commit'][:12]})"


def _hash_of(described: object) -> str:
    return sha256_of(json.dumps(described))
