"""The identity of a model: a stored signal must not be taken for another model's."""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from kd_lab.files import sha256_of, sha256_of_file
from kd_lab.hub import check_model_at_hand
from kd_lab.model_loading import lora_base
from kd_lab.next_step import written_by
from kd_lab.runs.evaluations import read_inputs
from kd_lab.runs.marker import check_whole, vouched_files
from kd_lab.runs.run_files import COMPLETE, CONFIG

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed
    from transformers import PreTrainedTokenizerBase

# The files that decide a model's distributions; others (optimizer states, logs) do not.
CONFIGS = ("config.json", "adapter_config.json")
# Of an adapter's identity: what identifies its base, in a folder or on the hub.
OF_BASE = {"sha256": "base_sha256", "commit": "base_commit"}
OF_A_RUN = (CONFIG, "trainer_state.json")  # in the folder of a run, and in that of a checkpoint
WEIGHTS = (
    "model*.safetensors",
    "adapter_model*.safetensors",
    "pytorch_model*.bin",
    "adapter_model*.bin",
    "*.gguf",
)


def model_identity(name_or_path: str, revision: str | None = None) -> dict[str, str]:
    """The identity of a model, as JSON values.

    Returns:
        for a local folder its name, and the SHA-256 over its configuration and weights. For a model
        of the hub its name, and the commit that ``revision`` (default: main) names. Of LoRA weights
        also ``base_sha256`` or ``base_commit``, that of their base.
    Raises:
        ValueError: the folder holds no model, or the hub has none of this name (or does not
            answer). Or a run's LoRA weights were trained on another base than there is now.
    """
    files = model_files(name_or_path)
    if files is None:
        return {"name": name_or_path, "commit": _hub_commit(name_or_path, revision)}
    folder = Path(name_or_path)
    check_whole(folder)
    vouched = vouched_files(folder)  # their digests were just compared
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets go of the interpreter
        digests = pool.map(
            lambda path: (
                vouched[path.name]["sha256"] if path.name in vouched else sha256_of_file(path)
            ),
            files,
        )
    named = [(path.name, digest) for path, digest in zip(files, digests, strict=True)]
    identity = {"name": folder.resolve().name, "sha256": _hash_of(named)}
    base = lora_base(name_or_path)
    if base is not None:
        identity |= _on_base(folder, base[0], model_identity(*base))
    return identity


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
        check_whole(folder)  # names the file, where a marker vouches for one
        missing = "weights" if configs else "config.json"
        raise ValueError(f"{folder} holds no model: it has no {missing}")
    if any((folder / name).is_file() for name in OF_A_RUN) and not (folder / COMPLETE).is_file():
        raise ValueError(
            f"{folder} is not whole: its run was cut off while it was written, or goes on; finish "
            "it with --resume_from_checkpoint true, or take its last checkpoint-N"
        )
    return configs + weights


def recorded_identity(folder: Path) -> dict[str, str]:
    """``model_identity`` as the markers have it: without the digest of what has no marker.

    No weights are read: it says which model was written there, not whether it is whole.

    Raises:
        ValueError: a run's LoRA weights were trained on another base than there is now.
    """
    identity = {"name": folder.resolve().name}
    files, vouched = model_files(str(folder)), vouched_files(folder)
    if files and all(path.name in vouched for path in files):
        identity["sha256"] = _hash_of([(path.name, vouched[path.name]["sha256"]) for path in files])
    base = lora_base(str(folder))
    if base is not None:
        on_record = recorded_identity(Path(base[0])) if vouched_files(Path(base[0])) else {}
        now = on_record if "sha256" in on_record else trained_base(folder)
        identity |= _on_base(folder, base[0], now)
    return identity


def trained_base(folder: Path) -> dict[str, str]:
    """The identity of the base of a run's LoRA weights in training; empty where none is on record.

    Args:
        folder: of the run, or of a checkpoint in it.
    """
    if lora_base(str(folder)) is None:
        return {}
    run = folder.parent if folder.name.startswith("checkpoint-") else folder
    return read_inputs(run).get("base", {})


def _on_base(folder: Path, name: str, base: dict[str, str]) -> dict[str, str]:
    """What an adapter's identity has of its base, once that is the base of its training.

    Args:
        name, base: the base's name and identity now.
    """
    trained = trained_base(folder)
    if any(base.get(key) != trained[key] for key in OF_BASE if key in trained):
        at_hub = ' (as "revision" in adapter_config.json)' if "commit" in trained else ""
        raise ValueError(
            f"{folder} was trained on another base than {name} is now: on {described(trained)}, "
            f"now {described(base)}: put that base back{at_hub}, or train again"
        )
    return {of_base: base[key] for key, of_base in OF_BASE.items() if key in base}


def check_same_teacher(stored: dict[str, str], now: dict[str, str]) -> None:
    """Refuse a signal that was stored from another model than the present one.

    A folder is known by its contents, so it may have been moved or renamed.

    Args:
        stored, now: from ``model_identity``.
    Raises:
        ValueError: they differ. Or one is a folder and the other of the hub, which cannot be
            compared.
    """
    keys = ["sha256"] if "sha256" in stored else ["name", "commit"]
    keys += [key for key in OF_BASE.values() if key in stored]  # earlier versions stored none
    if any(stored[key] != now.get(key) for key in keys):
        raise ValueError(
            f"what is stored comes from the teacher {described(stored)}, and the teacher given now "
            f"is {described(now)}: give the same one, or store again in another folder"
        )


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 of the meaning of every id and of the token that ends an answer.

    Stored token ids mean the same wherever this hash is the same. The chat template and the
    splitting of text do not count: they have no effect on stored ids.
    """
    by_id = sorted((i, token) for token, i in tokenizer.get_vocab().items())
    return _hash_of([by_id, tokenizer.eos_token])


def template_hash(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """SHA-256 of the chat template, which decides how a row reads; None without one."""
    template = tokenizer.chat_template
    return None if template is None else _hash_of([template])


def check_same_template(
    folder: str | Path, stored: str | None, tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Refuse a student that would be saved beside another template than its rows were made with.

    Args:
        folder: of the stored rows, for the message.
        stored: the hash of their template; None where the store does not know it.
    Raises:
        ValueError: the two templates differ.
    """
    own = template_hash(tokenizer)
    if stored is not None and own is not None and stored != own:
        raise ValueError(
            f"{folder} was written with another chat template than the student's: copy the "
            "teacher's chat_template.jinja into the student's folder, or write the rows anew with "
            "a teacher that has the student's template"
        )


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


def described(identity: Mapping[str, str]) -> str:
    """A model's identity in words: its name, and the beginning of its digest or commit."""
    if "sha256" in identity:
        base = next((identity[key] for key in OF_BASE.values() if key in identity), "")
        on_base = f", on a base of {base[:12]}..." if base else ""
        return f"{identity['name']} (SHA-256 {identity['sha256'][:12]}...{on_base})"
    return f"{identity['name']} (commit {identity['commit'][:12]})"


def _hash_of(described: object) -> str:
    return sha256_of(json.dumps(described))
