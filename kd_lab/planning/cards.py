"""Graphics cards that a run can be planned for: their memory and speed, as their makers state them.

Peaks are of dense products of 16-bit operands that are summed in float32; makers also print twice
as much, for sparse matrices. Sources, all NVIDIA's:

    h200-141gb  "H200 Tensor Core GPU" data sheet, SXM: 1,979 TFLOP/s sparse, 4.8 TB/s
    h100-80gb   "H100 Tensor Core GPU" data sheet, SXM: 1,979 TFLOP/s sparse, 3.35 TB/s
    a100-80gb   "A100 Tensor Core GPU" data sheet, SXM 80 GB: 312 TFLOP/s, 2,039 GB/s
    a100-40gb   the same, SXM 40 GB: 312 TFLOP/s, 1,555 GB/s
    rtx4090     "Ada GPU architecture" white paper: 165.2 TFLOP/s, 1,008 GB/s
    l4          "L4 Tensor Core GPU" data sheet: 242 TFLOP/s sparse, 300 GB/s
    a10g        "A10G" data sheet: 140 TFLOP/s sparse, 600 GB/s
"""

from typing import NamedTuple


class Card(NamedTuple):
    """One GPU."""

    memory_gb: float  # 10^9 bytes
    tflops: float  # 10^12 floating-point operations a second
    bandwidth_tb: float  # 10^12 bytes a second


CARDS = {
    "h200-141gb": Card(141, 989, 4.8),
    "h100-80gb": Card(80, 989, 3.35),
    "a100-80gb": Card(80, 312, 2.039),
    "a100-40gb": Card(40, 312, 1.555),
    "rtx4090": Card(24, 165.2, 1.008),
    "l4": Card(24, 121, 0.3),
    "a10g": Card(24, 70, 0.6),
}
DEFAULT_CARD = "a100-80gb"


def find_card(name: str) -> Card:
    """A card by its name.

    Raises:
        ValueError: lists the known ones.
    """
    if name not in CARDS:
        raise ValueError(f"gpu must be one of {', '.join(CARDS)}, not {name!r}")
    return CARDS[name]
