"""Distributions or hidden states and LM heads in, the distillation loss and its gradients out.

    fused.py                 the door for other code: plain tensors, labels with -100, alpha
    plain.py                 the definition in sixty lines, with whole logits
    chunks.py                distributions as values, chunk by chunk, never whole
      by_device.py           which of these computes a tile's loss, and leaves its gradient there:
        tiles.py             plain passes, on a CPU and for a new divergence
          closed_forms.py    each divergence's gradient, without autograd
        gpu_tiles.py         kernels, on a GPU
          read_once.py       in Triton: each logit read once, for most divergences
          adaptive_kernel.py the head of adaptive KL
          kernels.py         the divergences' terms, and passes for the others
      products.py            16-bit operands, 32-bit sums
    two_divergences.py       positions of two kinds, each with a divergence of its own
    sharded_head.py          an LM head that ZeRO-3 or FSDP2 has sharded
    token_log_probs.py       log p of given tokens, the same way

To read the loss, begin with ``plain.py``.
"""

from kd_lab.loss.chunks import CHUNK_SIZE, DistillationLoss, LiveDistribution, distillation_loss
from kd_lab.loss.fused import fused_linear_distillation_loss, fused_linear_topk_distillation_loss
from kd_lab.loss.plain import plain_distillation_loss
from kd_lab.loss.tiles import Objective, StoredDistribution, Weights
from kd_lab.loss.token_log_probs import token_log_probs

__all__ = [
    "CHUNK_SIZE",
    "DistillationLoss",
    "LiveDistribution",
    "Objective",
    "StoredDistribution",
    "Weights",
    "distillation_loss",
    "fused_linear_distillation_loss",
    "fused_linear_topk_distillation_loss",
    "plain_distillation_loss",
    "token_log_probs",
]
