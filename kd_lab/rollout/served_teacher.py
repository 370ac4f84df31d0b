"""A teacher on a vLLM server, for ``kd-lab generate``: too large for this machine, say.

Its tokenizer and configuration are here, in a folder or on the hub, and make the prompts. Before
its first answer the server is compared with them, and with the model itself where a folder holds
weights that this machine can load.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset

from kd_lab.data.messages import json_row
from kd_lab.machine import memory
from kd_lab.model_identity import WEIGHTS
from kd_lab.models import Model
from kd_lab.rollout import handshake, vllm_server
from kd_lab.rollout.sampling import Sampling
from kd_lab.rollout.vllm_server import Server

PROMPTS = 3  # that are compared


class ServedModel(Model):
    """A model by its name, of which a folder may lack the weights."""

    def __init__(self, name: str, revision: str | None = None) -> None:
        """Raises ValueError: a name on the hub that is not at hand."""
        self.has_weights = any(list(Path(name).glob(pattern)) for pattern in WEIGHTS)
        if self.has_weights or not Path(name).is_dir():
            super().__init__(name, revision)
        else:
            self.name, self.revision, self.dtype = name, revision, "auto"

    @cached_property
    def identity(self) -> dict[str, str]:
        """As of the model; of a folder without weights its name, since no more is known."""
        if self.has_weights or not Path(self.name).is_dir():
            return super().identity
        return {"name": Path(self.name).resolve().name, "commit": "as served"}

    @property
    def dtype_name(self) -> str:
        """The server's own, which it does not tell."""
        return "as served"

    def check(self) -> None:
        """Look at its files, where it has weights."""
        if self.has_weights:
            super().check()


def connect(base_url: str, teacher: ServedModel, prompts: Dataset, sampling: Sampling) -> Server:
    """The server, once it is found to serve what the run expects.

    Args:
        prompts: of the columns messages and prompt_ids.
    Raises:
        ValueError: names what differs; see ``kd_lab.rollout.handshake``.
        OSError: no server answers.
    """
    server = Server(base_url)
    longest = max(map(len, prompts["prompt_ids"])) + sampling.max_new_tokens
    handshake.check_room(server, longest)
    handshake.check_tokenizer(server, teacher.tokenizer)
    first = prompts.select(range(min(PROMPTS, len(prompts))))
    ids: Sequence[Sequence[int]] = first["prompt_ids"][:]
    talks: list[dict[str, Any]] = [json_row(row["messages"], row.get("tools")) for row in first]
    handshake.check_template(server, talks, ids)
    handshake.check_temperature(server, ids[0], sampling.temperature)
    if teacher.has_weights and _fits(Path(teacher.name)):
        rows = [row for row in ids if len(row) > 1]
        own = handshake.row_logprobs(teacher.load(), rows)
        found = vllm_server.row_logprobs(server, rows)
        handshake.check_logprobs(found, own, server.base_url, teacher.name)
    return server


def _fits(folder: Path) -> bool:
    """Whether half of the memory, where it is known, holds the weights."""
    size = sum(path.stat().st_size for pattern in WEIGHTS for path in folder.glob(pattern))
    return 2 * size < memory() < math.inf
