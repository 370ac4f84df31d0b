"""What a GPU reads, writes and multiplies for the loss: counted, without a GPU, and times from it.

    python benchmarks/traffic.py --json assets/results/traffic.json

A loss on a GPU waits for memory. So its time follows from the bytes that its passes over the logits
move, and from its matrix products. The bytes are counted: Triton's kernels run under its
interpreter, which says what each load and store touches, and torch's operations are seen as they
are dispatched. The times are computed from the bytes, and from what an H100 and an A100 reach.
Nothing is read from a cache.

ours          kd_lab's kernels: forward KL, alpha 0.5, float32 logits, 16-bit gradient
liger         LigerFusedLinearJSDLoss (beta 0, both parts), compiled
liger_kl_div  LigerFusedLinearKLDivLoss: no cross-entropy part, and whole teacher probabilities
trl           TRL's ChunkedDivergenceFunction (beta 0), which has no cross-entropy part
floor         the four bare products that any such loss needs
"""

import os

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import trl.kernels.chunked_divergence as trl_kernels
from liger_kernel.ops.fused_linear_kl_div import _CHUNK_MEM_CONST, _kl_div_kernel
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import interpreter

from kd_lab.divergences import DIVERGENCES, forward_kl, get_divergence
from kd_lab.files import write_text
from kd_lab.loss import CHUNK_SIZE, by_device, gpu_tiles, read_once
from kd_lab.loss.tiles import Objective, StoredDistribution, Weights
from toy.script import run_script

VOCABULARY, PADDED = 151_665, 151_680
STUDENT_WIDTH, TEACHER_WIDTH = 1536, 3584  # Qwen2.5-1.5B and 7B
TOKENS = 8192  # of a micro-batch
ROWS = 2  # that are counted; a cell is one token and one word
LIGER_CHUNK = 1024  # its default
# Inductor's kernel for LigerFusedLinearJSDLoss at beta 0, from torch 2.13.0's CUDA build and fake
# tensors of an H100. A CPU build does not generate it: this one number is not counted here.
LIGER_COMPILED_BYTES = 32
LIGER_HEAD_BYTES = 6  # an entry and chunk: grad_weight.add_(chunk's), 16 bits each


class Card(NamedTuple):
    """What a card reaches in practice, not on paper."""

    flops: float  # a second, 16-bit operands
    bandwidth: float  # bytes a second


CARDS = {"h100": Card(693e12, 2.68e12), "a100": Card(218e12, 1.6e12)}


PASSES = {"_softmax": 3, "topk": 6}  # reads of a row that is too long for a block of threads


class Traffic(TorchDispatchMode):
    """Bytes read and written, and kernels; matrix products are counted by their shapes instead."""

    FACTORIES = ("new_full", "new_zeros", "full_like", "zeros_like", "ones_like")  # write alone
    FREE = ("empty", "new_empty", "empty_like", "detach", "_unsafe_view")
    PRODUCTS = ("mm", "addmm", "addmm_")
    SPARSE = ("gather", "scatter", "scatter_")  # touches what the index names

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.kernels, self.is_launching = 0, 0, False
        self.restore: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> "Traffic":
        builder = interpreter.InterpreterBuilder
        load, store, launch = (
            builder.create_masked_load,
            builder.create_masked_store,
            interpreter.GridExecutor.__call__,
        )

        def touched(pointers: Any, mask: Any) -> int:
            # A number that all threads of a program want is read once.
            lanes = int(mask.data.sum()) if pointers.data.size > 1 else 1
            return lanes * pointers.get_element_ty().primitive_bitwidth // 8

        def counted_load(own: Any, pointers: Any, mask: Any, *others: Any) -> Any:
            self.bytes += touched(pointers, mask)
            return load(own, pointers, mask, *others)

        def counted_store(own: Any, pointers: Any, value: Any, mask: Any, *others: Any) -> Any:
            self.bytes += touched(pointers, mask)
            return store(own, pointers, value, mask, *others)

        def counted_launch(own: Any, *args: Any, **kwargs: Any) -> Any:
            self.kernels += 1
            self.is_launching = True  # the interpreter copies its arguments, which a GPU does not
            try:
                return launch(own, *args, **kwargs)
            finally:
                self.is_launching = False

        for place, name, counted in (
            (builder, "create_masked_load", counted_load),
            (builder, "create_masked_store", counted_store),
            (interpreter.GridExecutor, "__call__", counted_launch),
        ):
            self.restore.append((place, name, getattr(place, name)))
            setattr(place, name, counted)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for place, name, before in self.restore:
            setattr(place, name, before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        returned = func._schema.returns
        is_view = any(part.alias_info and not part.alias_info.is_write for part in returned)
        inputs = [part for part in args if isinstance(part, Tensor)]
        # On a CPU 16-bit operands are widened for a product; a GPU takes them as they are.
        is_widened = name == "_to_copy" and inputs[0].dtype == torch.bfloat16
        if self.is_launching or is_view or is_widened or name in (*self.FREE, *self.PRODUCTS):
            return out
        outputs = [part for part in (out if isinstance(out, tuple) else [out]) if size(part)]
        if any(part.dim() == 2 and len(part) > ROWS for part in [*inputs, *outputs]):
            return out  # the heads are no cells
        self.kernels += 1
        if name in self.SPARSE:
            index = next(part for part in inputs if part.dtype == torch.int64)
            self.bytes += size(index) + 2 * index.numel() * inputs[0].element_size()
        else:
            read = 0 if name in self.FACTORIES else sum(size(part) for part in inputs)
            self.bytes += read * PASSES.get(name, 1) + sum(size(part) for part in outputs)
        return out


def size(part: Any) -> int:
    """Bytes that are really there: what is expanded is stored once."""
    if not isinstance(part, Tensor):
        return 0
    return min(part.numel() * part.element_size(), part.untyped_storage().nbytes())


def logits(dtype: torch.dtype, scale: float, seed: int) -> Tensor:
    """Logits of a few positions, their rows padded as the loss pads them."""
    memory = torch.zeros(ROWS, PADDED, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    memory[:, :VOCABULARY] = torch.randn(ROWS, VOCABULARY, generator=generator) * scale
    return memory[:, :VOCABULARY]


def per_cell(run: Callable[[], object]) -> dict[str, float]:
    with np.errstate(all="ignore"), Traffic() as seen:  # TRL's kernel takes inf times 0
        run()
    cells = ROWS * VOCABULARY
    return {"bytes": round(seen.bytes / cells, 2), "kernels": seen.kernels}


def ours(name: str, alpha: float = 0.5, scale: float = 4.5, topk: int = 0) -> dict[str, float]:
    """One block by our kernels; logits of scale 4.5 reach 20, those of scale 1 are flat."""
    student, teacher = logits(torch.float32, scale, 0), logits(torch.float32, scale, 1)
    targets = torch.arange(ROWS)
    objective = Objective(get_divergence(name), Weights(alpha, 1 - alpha), 1.0, TOKENS)
    compared: Tensor | StoredDistribution | None = teacher if alpha else None
    if topk:
        logp, tokens = teacher.log_softmax(-1).topk(topk)
        compared = StoredDistribution(logp, tokens, torch.log1p(-logp.exp().sum(-1)))
    return per_cell(
        lambda: by_device.tile_loss(student, compared, targets, objective, True, torch.bfloat16)
    )


def trl() -> dict[str, float]:
    """Both passes over the logits, each of which projects them anew."""
    generator = torch.Generator().manual_seed(0)
    hidden, teacher_hidden = (torch.randn(ROWS, 16, generator=generator) for _ in range(2))
    head, teacher_head = (torch.randn(VOCABULARY, 16, generator=generator) for _ in range(2))
    narrow = [part.bfloat16() for part in (hidden, head, teacher_hidden, teacher_head)]
    hidden, head = (part.requires_grad_() for part in narrow[:2])
    trl_kernels._use_triton = lambda device: True

    def run() -> None:
        found, _ = trl_kernels.ChunkedDivergenceFunction.apply(
            hidden, head, None, narrow[2], narrow[3], None, 0.0
        )
        found.sum().backward()

    return per_cell(run)


def liger_kl_div() -> dict[str, float]:
    """The teacher's softmax, which its caller makes, and its kernel."""
    student, teacher = (logits(torch.bfloat16, 4.5, seed) for seed in range(2))
    losses = torch.empty(ROWS)

    def run() -> None:
        target = teacher.softmax(-1)
        _kl_div_kernel[(ROWS,)](
            student, student.stride(0), target, target.stride(0), losses, 1, losses, -100,
            VOCABULARY, 1.0, 1e-10, 1.0, BLOCK_SIZE=32768, HAS_LABEL=False,
        )  # fmt: skip

    return per_cell(run)


# ---- times


class Product(NamedTuple):
    """[m, k] · [k, n], 16-bit operands."""

    m: int
    k: int
    n: int
    out: float  # bytes an entry of the result: written, and read where it is a sum that goes on

    def seconds(self, card: Card) -> float:
        moved = 2 * self.k * (self.m + self.n) + self.out * self.m * self.n
        return max(2 * self.m * self.k * self.n / card.flops, moved / card.bandwidth)


def products(chunk: int, logit: float, gradient: float, of_head: float) -> list[Product]:
    """The four of a chunk: logits twice, and the gradients to hidden states and head."""
    return [
        Product(chunk, STUDENT_WIDTH, VOCABULARY, logit),
        Product(chunk, TEACHER_WIDTH, VOCABULARY, logit),
        Product(chunk, VOCABULARY, STUDENT_WIDTH, gradient),
        Product(VOCABULARY, chunk, STUDENT_WIDTH, of_head),
    ]


def microseconds(card: Card, chunk: int, of_products: list[Product], cell: float = 0) -> float:
    """A token's share of a chunk's products and passes."""
    seconds = sum(product.seconds(card) for product in of_products) / chunk
    return (seconds + cell * VOCABULARY / card.bandwidth) * 1e6


def times(card: Card, cells: dict[str, float]) -> dict[str, float]:
    own_chunk = by_device.KERNEL_CHUNKS * CHUNK_SIZE
    trl_chunk = trl_kernels.TOKEN_CHUNK_SIZE
    twice = products(trl_chunk, 4, 4, 8)
    inc_factor = -(-VOCABULARY // (_CHUNK_MEM_CONST * STUDENT_WIDTH))
    kl_chunk = 2 ** (-(-TOKENS // inc_factor) - 1).bit_length()
    head = LIGER_HEAD_BYTES * VOCABULARY * STUDENT_WIDTH / card.bandwidth / LIGER_CHUNK * 1e6
    return {
        "ours": microseconds(card, own_chunk, products(own_chunk, 4, 2, 8), cells["ours"]),
        "liger": microseconds(
            card, LIGER_CHUNK, products(LIGER_CHUNK, 2, 2, 2), cells["liger"]
        ) + head,
        "trl": microseconds(card, trl_chunk, [*twice[:2], *twice], cells["trl"]),
        "floor": microseconds(card, TOKENS, products(TOKENS, 2, 2, 2)),
        "liger_kl_div": microseconds(
            card, kl_chunk, products(kl_chunk, 2, 2, 4), cells["liger_kl_div"]
        ),
    }  # fmt: skip


def as_on_a_gpu() -> None:
    """Kernels run as there, except that no program waits: what is read and written is the same."""
    by_device.KERNEL_DEVICES = ("cpu",)
    gpu_tiles.BLOCK = trl_kernels._BLOCK_SIZE = 2**14  # numpy's time goes by blocks, bytes do not
    gpu_tiles.part_size = lambda width, models, device: gpu_tiles.KEPT // models
    read_once.wait_for = lambda *_: None


def measure() -> dict[str, Any]:
    as_on_a_gpu()
    with_kernels = [name for name in DIVERGENCES if gpu_tiles.terms_of(get_divergence(name))]
    counted = {name: ours(name) for name in with_kernels}
    peaked, flat = counted["adaptive_kl"], ours("adaptive_kl", scale=1.0)
    counted["adaptive_kl"] = max(peaked, flat, key=lambda found: found["bytes"])
    others = {"sft": ours("forward_kl", alpha=0.0), "topk_64": ours("forward_kl", topk=64)}
    peers = {"trl": trl(), "liger_kl_div": liger_kl_div()}
    cells = {
        "ours": counted[forward_kl.__name__]["bytes"],
        "liger": LIGER_COMPILED_BYTES,
        **{name: found["bytes"] for name, found in peers.items()},
    }
    by_card = {name: times(card, cells) for name, card in CARDS.items()}
    result: dict[str, Any] = {
        "computed": "bytes are counted; times are computed from them, none was measured",
        "settings": {
            "vocabulary": VOCABULARY,
            "widths": [STUDENT_WIDTH, TEACHER_WIDTH],
            "tokens": TOKENS,
            "cards": {name: card._asdict() for name, card in CARDS.items()},
            "chunk_size": by_device.KERNEL_CHUNKS * CHUNK_SIZE,
            "torch": torch.__version__,
        },
        "bytes_per_cell": {name: found["bytes"] for name, found in counted.items()},
        "adaptive_kl_bytes": {"peaked": peaked["bytes"], "flat": flat["bytes"]},
        "other_bytes_per_cell": {name: found["bytes"] for name, found in others.items()},
        "kernels_per_block": {
            name: found["kernels"] for name, found in {**counted, **others}.items()
        },
        "peers_bytes_per_cell": {name: cells[name] for name in ("liger", "liger_kl_div", "trl")},
        "peers_note": {
            "liger": "read in the code that torch 2.13.0's CUDA build generates for an H100: a CPU "
            "build cannot generate it, so that it is not counted here",
            "liger_kl_div": "takes the teacher's probabilities whole, [tokens, vocabulary], rounds "
            "logits to 16 bits and has no cross-entropy part",
            "trl": "has no cross-entropy part",
        },
    }
    for card, seconds in by_card.items():
        rounded = {name: round(found, 2) for name, found in seconds.items()}
        named = ("ours", "liger", "trl", "floor")
        result[f"{card}_us_per_token"] = {name: rounded[name] for name in named}
        result[f"{card}_liger_kl_div_us_per_token"] = rounded["liger_kl_div"]
        result[f"{card}_over_floor"] = round(seconds["ours"] / seconds["floor"], 3)
        result[f"{card}_over_better_peer"] = round(
            seconds["ours"] / min(seconds["liger"], seconds["trl"]), 3
        )
    return result


def show(result: dict[str, Any]) -> None:
    table = Table(title="bytes a (token, word) cell, and kernels a block: counted")
    for column in ("loss", "bytes", "kernels"):
        table.add_column(column, justify="left" if column == "loss" else "right")
    cells = {**result["bytes_per_cell"], **result["other_bytes_per_cell"]}
    for name, found in cells.items():
        table.add_row(name, f"{found:.1f}", str(result["kernels_per_block"][name]))
    Console().print(table)
    for card in CARDS:
        found = ", ".join(f"{n} {us:.2f}" for n, us in result[f"{card}_us_per_token"].items())
        Console().print(
            f"{card}, computed, us a token: {found}; ours is {result[f'{card}_over_floor']:.2f} of "
            f"the floor and {result[f'{card}_over_better_peer']:.2f} of the better peer"
        )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="PATH")
    arguments = parser.parse_args(argv)
    result = measure()
    show(result)
    if arguments.json:
        write_text(arguments.json, json.dumps(result, indent=1) + "\n")
        print(f"wrote {arguments.json}")


if __name__ == "__main__":
    run_script(main)
