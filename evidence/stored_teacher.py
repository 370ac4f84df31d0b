"""The size of a stored teacher on disk: measured for the toy teacher, counted for larger ones.

    python -m evidence stored_teacher runs/demo     # after `make demo`; seconds

There are three ways to keep a teacher out of memory while a student trains. One stores its answers,
its 64 likeliest tokens at each position, or its hidden states. Measured bytes are the whole files',
for each trained token. The results go to assets/results/stored_teacher.json.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch

from kd_lab.data.conversations import DataArguments
from kd_lab.runs.versions import run_versions
from kd_lab.teacher.cache import CacheArguments, cache_teacher
from kd_lab.teacher.signals import topk_bytes

CONVERSATIONS = 640
TOPK = 64
# Hidden units, and rows of the head that are tokens.
TEACHERS = {"SmolLM2-135M": (576, 49_152), "Qwen2.5-7B": (3584, 151_665)}
CONVERSATION_TOKENS = 1_200  # assumed, all of them trained
POST_TOKENS = 20_000 * CONVERSATION_TOKENS


def measure(runs: Path) -> dict[str, Any]:
    """Store the teacher of the toy study, and count the others.

    Raises:
        ValueError: the teacher is missing.
    """
    torch.set_num_threads(1)
    return {
        "toy": measured(runs / "teacher"),
        "counted": {name: counted(*size) for name, size in TEACHERS.items()},
        "topk": TOPK,
        "assumed_tokens": CONVERSATION_TOKENS,
        "versions": run_versions({}),
    }


def measured(teacher: Path, conversations: int = CONVERSATIONS) -> dict[str, float]:
    """Bytes of files for each trained token, by the stored signal.

    Raises:
        ValueError: ``teacher`` holds no model.
    """
    found = {}
    for signal in ("hidden", "topk"):
        with tempfile.TemporaryDirectory() as folder:
            args = CacheArguments(
                output_dir=folder,
                teacher_model_name_or_path=str(teacher),
                teacher_signal=signal,
                topk=TOPK,
            )
            data = DataArguments(num_conversations=conversations)
            store = cache_teacher(args, data)
            found[signal] = store.finish()["bytes_per_token"]
    return found


def counted(hidden: int, vocab_size: int) -> dict[str, Any]:
    """Bytes of each trained token, and gigabytes for the post's 20,000 conversations.

    Returns:
        ``bytes`` and ``gigabytes`` of each store: ``answers`` (a token's id), ``topk`` (64
        tokens), ``hidden`` (bfloat16) and ``distribution`` (all log-probabilities in float16).
    """
    sizes = {
        "answers": 4,
        "topk": topk_bytes(TOPK, vocab_size),
        "hidden": 2 * hidden,
        "distribution": 2 * vocab_size,
    }
    return {
        name: {"bytes": size, "gigabytes": size * POST_TOKENS / 1e9} for name, size in sizes.items()
    }
