"""Matrix products whose operands have 16 bits and whose sums have 32.

A logit of 24 in bfloat16 is off by up to 0.06, and its exponential by 6%: where teacher and student
are 0.001 nats apart, a gradient from such logits is mostly rounding. So 16-bit operands are
multiplied exactly, summed in float32 and delivered in float32. A CPU gets the operands as float32,
a part of the vocabulary at a time, which is also its fastest way.

A GPU does it at its full speed if all sizes are multiples of 8. For Qwen2.5's 151,665 words an H200
takes six to seven times as long as for 151,680 (``make gpu ONLY=roofline``). So a GPU multiplies by
the first 151,616, and then by the other 49.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

NARROW = (torch.bfloat16, torch.float16)
VOCABULARY_PART = 2**14  # rows of a head, or columns of a tile, that are converted at a time
ALIGNMENT = 64  # elements: rows of logits begin where vector loads do, whatever the vocabulary


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """In what sums over operands of ``dtype`` are taken and delivered: no less than float32."""
    return torch.float32 if dtype in NARROW else dtype


def vocabulary_parts(vocab_size: int, dtype: torch.dtype, device: torch.device) -> list[slice]:
    """All rows of the vocabulary, in the parts in which 16-bit operands are multiplied fastest."""
    aligned = vocab_size - vocab_size % ALIGNMENT
    if dtype not in NARROW or (device.type == "cuda" and aligned in (0, vocab_size)):
        return [slice(0, vocab_size)]
    if device.type == "cuda":
        return [slice(0, aligned), slice(aligned, vocab_size)]
    starts = range(0, vocab_size, VOCABULARY_PART)
    return [slice(start, min(start + VOCABULARY_PART, vocab_size)) for start in starts]


def rounded_parts(tile: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """A tile [C, V] in the dtype of the operands, by parts of the vocabulary."""
    for vocab in vocabulary_parts(tile.shape[-1], dtype, tile.device):
        yield vocab, tile[:, vocab].to(dtype)


def product(a: Tensor, b: Tensor, out: Tensor, *, add: bool = False) -> Tensor:
    """``out`` ← a [m, k] · b [k, n], or ``out`` + a · b with ``add``.

    Args:
        a, b: operands of one dtype.
        out: [m, n], of ``sum_dtype``; or of the operands' own dtype, to which the sum is rounded.
    """
    if a.dtype not in NARROW:
        return out.addmm_(a, b) if add else torch.mm(a, b, out=out)
    if a.device.type == "cuda":
        if out.dtype == a.dtype:
            return torch.mm(a, b, out=out)
        if add:
            return torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
        return torch.mm(a, b, out_dtype=out.dtype, out=out)
    a, b = a.float(), b.float()
    if out.dtype != a.dtype:
        return out.copy_(a @ b)
    return out.addmm_(a, b) if add else torch.mm(a, b, out=out)
