"""A teacher whose signal or answers were stored by `kd-lab cache` or `kd-lab generate`.

A cache is a training set with the teacher's signal beside it. Each of its shards is one safetensors
file: some rows (packed_rows.py), and the signal at their n positions whose next token is trained,
in order. The signal is either ``hidden``, bfloat16 [n, H], or ``topk_logp``, ``topk_tokens`` and
``topk_tail`` (signals.py). The files are mapped into memory; a batch reads only its own part.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from kd_lab.data.packed_rows import PackedRows
from kd_lab.data.row_kinds import TRAINING_ROW
from kd_lab.data.shards import ShardStore
from kd_lab.loss import LiveDistribution, StoredDistribution
from kd_lab.model_identity import check_same_template, tokenizer_hash
from kd_lab.vocabulary import IGNORED

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed
    from transformers import PreTrainedTokenizerBase

HEAD = "head.safetensors"  # the teacher's, stored once beside shards of hidden states
SIGNALS = {"hidden": ("hidden",), "topk": ("topk_logp", "topk_tokens", "topk_tail")}


class StoredTeacher:
    """A teacher as a folder of `kd-lab cache`, for the trainers.

    Args:
        folder: of the cache.
        verify: check every shard against its checksum. If several processes read one folder, one of
            them needs to.
    Raises:
        ValueError: no finished cache, or a corrupted shard (named); the message has the command to
            run.
    """

    def __init__(self, folder: str | Path, verify: bool = True) -> None:
        self.store = ShardStore.open(folder, "cache", verify)
        self.manifest = self.store.manifest
        self.kind: str = self.store.settings["teacher_signal"]  # "hidden" or "topk"
        if self.kind == "hidden":
            self.store.attached(HEAD)
        self._files: dict[int, Any] = {}
        self._head: tuple[Tensor, Tensor | None] | None = None  # where it was last needed

    def check_fits(self, tokenizer: "PreTrainedTokenizerBase", temperature: float) -> None:
        """Refuse a student's tokenizer, or a temperature, that does not fit the cache.

        Raises:
            ValueError: the tokenizer has other ids or another chat template than the teacher's; or
                the top k were stored at another temperature (hidden states serve any).
        """
        settings = self.store.settings
        if tokenizer_hash(tokenizer) != settings["tokenizer_sha256"]:
            raise ValueError(
                f"{self.store.folder} was written with another tokenizer than the student's, so "
                "that its token ids mean something else to the student"
            )
        check_same_template(self.store.folder, settings.get("chat_template_sha256"), tokenizer)
        if self.kind == "topk" and temperature != settings["temperature"]:
            raise ValueError(
                f"{self.store.folder} has the teacher's top {settings['k']} at temperature "
                f"{settings['temperature']}, not {temperature}: train with distil_temperature = "
                f"{settings['temperature']}, or cache with the other one (hidden states serve any)"
            )

    def rows(self) -> Dataset:
        """The training rows, and ``cache_row``, the key of a row's signal."""
        parts = [PackedRows.load(path).unpacked() for path in self.store.paths()]
        rows = concatenate_datasets(parts)
        return rows.add_column("cache_row", np.arange(len(rows), dtype=np.int32))

    def end_tokens(self, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
        """The tokens that may end an answer of these rows: the writer's end tokens."""
        answers = self.store.settings["source"].get("answers")
        return [tokenizer.eos_token_id] if answers is None else answers["eos_token_ids"]

    def signal(self, cache_rows: list[int]) -> dict[str, Tensor]:
        """The signal at the trained positions of these rows, row by row, n positions in all.

        Returns:
            from a cache of hidden states ``hidden``, bfloat16 [n, H]. From a cache of the top k
            ``topk_logp`` float32 [n, k], ``topk_tokens`` int64 [n, k] and ``topk_tail`` float32
            [n], the log-probability of all other tokens together. These k + 1 probabilities are
            normalised to sum to 1, since 16 bits have rounded them.
        Raises:
            FloatingPointError: log-probabilities of the top k are infinite or NaN.
        """
        names = SIGNALS[self.kind]
        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        for row in cache_rows:
            start, stop = self._positions[row]
            file = self._file(row // self.manifest["rows_per_shard"])
            for name in names:
                parts[name].append(file.get_slice(name)[start:stop])
        signal = {name: torch.cat(part) for name, part in parts.items()}
        if self.kind == "hidden":
            return signal
        logp, tail = signal["topk_logp"].double(), signal["topk_tail"].double()
        total = torch.cat([logp, tail[:, None]], -1).logsumexp(-1)  # [n], almost 0
        if not total.isfinite().all():  # on the CPU, so that no GPU waits
            raise FloatingPointError(f"{self.store.folder}: its signal is infinite or NaN")
        return {
            "topk_logp": (logp - total[:, None]).float(),
            "topk_tokens": signal["topk_tokens"].long(),
            "topk_tail": (tail - total).float(),
        }

    def distribution(
        self, cache_rows: list[int], device: torch.device
    ) -> LiveDistribution | StoredDistribution:
        """The teacher's distributions at the trained positions of these rows, on a device."""
        signal = {name: part.to(device) for name, part in self.signal(cache_rows).items()}
        if self.kind == "topk":
            return StoredDistribution(*(signal[name] for name in SIGNALS["topk"]))
        if self._head is None or self._head[0].device != device:
            weight, bias = self.head()
            self._head = weight.to(device), None if bias is None else bias.to(device)
        return LiveDistribution(signal["hidden"], *self._head)

    def head(self) -> tuple[Tensor, Tensor | None]:
        """The teacher's LM head for its hidden states: [V, H] in its own dtype, and bias [V].

        V is the number of tokens (``manifest["settings"]["vocab_size"]``), without padding rows.
        """
        tensors = load_file(self.store.attached(HEAD))
        return tensors["weight"], tensors.get("bias")

    def _file(self, index: int) -> Any:
        if index not in self._files:
            path = self.store.path(self.store.shards()[index])
            self._files[index] = safe_open(path, "pt")
        return self._files[index]

    @cached_property
    def _positions(self) -> NDArray[np.int64]:
        """The first and last position of each row's signal in its shard: [rows, 2]."""
        places = []
        for path in self.store.paths():
            ends = PackedRows.load(path).positions_per_row().cumsum()
            places.append(np.stack([np.append(0, ends[:-1]), ends], axis=1))
        return np.concatenate(places)


def stored_source(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of the conversations behind a run's stored rows; None without stored rows.

    Args:
        config: the run's settings; ``teacher_cache`` or ``answers`` names the folder.
    Raises:
        ValueError: the folder holds no finished rows.
    """
    for key, kind in ("teacher_cache", "cache"), ("answers", "answers"):
        if (folder := config.get(key)) is not None and Path(folder).is_dir():
            source = ShardStore.open(folder, kind, verify=False).settings["source"]
            return source["answers"]["source"] if "answers" in source else source
    return None


CONVERSATIONS = (
    "dataset", "dataset_config", "dataset_revision", "train_split", "conversation_seed"
)  # fmt: skip


def with_true_data(config: dict[str, Any]) -> dict[str, Any]:
    """A run's settings, with the conversations that it really trains on.

    Stored rows were made of conversations of their own, whatever the run's data settings say. A
    setting that serves for the test set too must be the same: so that the record is true.

    Raises:
        ValueError: the test set would come from other conversations than the stored rows; names the
            keys and values to give.
    """
    source = stored_source(config)
    if source is None:
        return config
    made = {key: source[key] for key in CONVERSATIONS if key in source}
    tested, has_own = config["eval_strategy"] != "no", config.get("test_dataset") is not None
    free = [] if tested and not has_own else ["num_conversations"]
    free += [] if tested else ["max_length"]
    made |= {key: source[key] for key in free if key in source}
    of_tests = () if not tested else ("conversation_seed",) if has_own else CONVERSATIONS
    other = {key: made[key] for key in of_tests if key in made and made[key] != config.get(key)}
    if other:
        folder = config.get("teacher_cache") or config["answers"]
        listed = ", ".join(f"{key} {value!r}" for key, value in other.items())
        raise ValueError(
            f"{folder} was made of other conversations than this run names for its test set: set "
            f"{listed} as there (test_dataset may be another), or eval_strategy to no"
        )
    return config | made


def answers_end_tokens(folder: str | Path) -> list[int]:
    """The tokens that may end an answer in a folder of `kd-lab generate`."""
    return ShardStore.open(folder, "answers", verify=False).settings["eos_token_ids"]


def stored_answers(folder: str | Path, verify: bool = True) -> Dataset:
    """The training rows of a folder of `kd-lab generate`; the teacher's tokens are trained.

    Raises:
        ValueError: no finished folder of answers, or a corrupted shard (named).
    """
    parts = []
    for path in ShardStore.open(folder, "answers", verify).paths():
        columns: dict[str, list[Any]] = {name: [] for name in TRAINING_ROW}
        for line in path.read_bytes().splitlines():  # of text, it would split at U+2028 as well
            answer = json.loads(line)
            prompt, completion = answer["prompt_ids"], answer["completion_ids"]
            columns["input_ids"].append(prompt + completion)
            columns["labels"].append([IGNORED] * len(prompt) + completion)
            columns["prompt_length"].append(len(prompt))
        # A token is 8 bytes in a table, and 100 in Python's lists: these go with their shard.
        parts.append(Dataset.from_dict(columns, features=TRAINING_ROW))
    return concatenate_datasets(parts)
