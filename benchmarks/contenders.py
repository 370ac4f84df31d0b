"""The losses that the speed of ours is compared with, on the same tensors: forward KL, all of them.

floor            the four bare matrix products that any such loss needs
ours             kd_lab's fused loss; alpha 0.5
liger            Liger's LigerFusedLinearJSDLoss (beta 0, both parts)
liger_kl_div     Liger's newer LigerFusedLinearKLDivLoss: Triton alone; it takes whole teacher
                 probabilities, which its caller makes, and has no cross-entropy part
liger_jsd        Liger's LigerFusedLinearJSD (beta 0): Triton alone; no cross-entropy part
trl_kernel       TRL 1.16's ChunkedDivergenceFunction (beta 0), its newest; no cross-entropy part
trl_gkd          TRL's GKDTrainer.generalized_jsd_loss (beta 0) on whole logits, no cross-entropy
dense            the plain way: whole logits, log_softmax, kd_lab.divergences.forward_kl, autograd
dense_kl_div     the leanest plain way: the same with F.kl_div

Each runs forward and backward to the student's hidden states and head, whose two gradients it
leaves in ``.grad``. What it needs of the teacher beyond hidden states and head it makes itself.
"""

import torch
import torch.nn.functional as F
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
from torch import Tensor
from trl.experimental.gkd import GKDTrainer
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

from kd_lab.divergences import Divergence, forward_kl
from kd_lab.loss import fused_linear_distillation_loss
from kd_lab.loss.products import ALIGNMENT

STUDENT_WIDTH, TEACHER_WIDTH = 896, 1536  # Qwen2.5-0.5B and 1.5B


class Inputs:
    """A student's and a teacher's last hidden states and heads, as after initialisation."""

    def __init__(
        self,
        tokens: int,
        vocab: int,
        dtype: torch.dtype,
        device: str = "cpu",
        widths: tuple[int, int] = (STUDENT_WIDTH, TEACHER_WIDTH),
    ) -> None:
        torch.manual_seed(0)
        own, other = widths

        def normal(rows: int, width: int) -> Tensor:
            return torch.randn(rows, width, device=device)

        self.labels = torch.randint(0, vocab, (tokens,), device=device)
        self.student_hidden = normal(tokens, own).to(dtype).requires_grad_()
        self.teacher_hidden = normal(tokens, other).to(dtype)
        self.student_head = normal(vocab, own).div_(own**0.5).to(dtype).requires_grad_()
        self.teacher_head = normal(vocab, other).div_(other**0.5).to(dtype)

    @property
    def gradient_bytes(self) -> int:
        """Of the two gradients, which are the same for all."""
        return self.student_hidden.nbytes + self.student_head.nbytes

    def clear(self) -> None:
        self.student_hidden.grad = self.student_head.grad = None

    def logits(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            teacher = self.teacher_hidden @ self.teacher_head.t()
        return self.student_hidden @ self.student_head.t(), teacher


def floor(data: Inputs, chunk_size: int) -> None:
    # Of 151,665 words the last 49 are left out: a GPU's products are slow where 8 divides no size.
    words = len(data.student_head) // ALIGNMENT * ALIGNMENT or len(data.student_head)
    hidden, head = data.student_hidden.detach(), data.student_head.detach()[:words]
    teacher_head = data.teacher_head[:words]
    hidden_grad, head_grad = torch.empty_like(hidden), torch.empty_like(data.student_head)
    student, teacher = (hidden.new_empty(chunk_size, words) for _ in range(2))
    for start in range(0, len(hidden), chunk_size):
        some = slice(start, start + chunk_size)
        size = len(hidden[some])
        torch.mm(hidden[some], head.t(), out=student[:size])
        torch.mm(data.teacher_hidden[some], teacher_head.t(), out=teacher[:size])
        torch.mm(student[:size], head, out=hidden_grad[some])
        head_grad[:words].addmm_(student[:size].t(), hidden[some], beta=0 if start == 0 else 1)
    data.student_hidden.grad, data.student_head.grad = hidden_grad, head_grad


def ours(data: Inputs, divergence: str = "forward_kl") -> None:
    fused_linear_distillation_loss(
        data.student_hidden, data.student_head, data.teacher_hidden, data.teacher_head,
        data.labels, divergence=divergence,
    ).loss.backward()  # fmt: skip


def liger(data: Inputs, chunk_size: int) -> None:
    # Compiling is for GPUs: on a CPU it is slower.
    is_compiled = data.labels.is_cuda
    loss = LigerFusedLinearJSDLoss(beta=0.0, compiled=is_compiled, chunk_size=chunk_size)
    loss(
        data.student_hidden, data.student_head, data.teacher_hidden, data.teacher_head, data.labels
    ).backward()


def liger_kl_div(data: Inputs) -> None:
    from liger_kernel.transformers.fused_linear_kl_div import LigerFusedLinearKLDivLoss

    with torch.no_grad():
        probs = (data.teacher_hidden @ data.teacher_head.t()).softmax(-1)
    LigerFusedLinearKLDivLoss()(data.student_hidden, data.student_head, probs).backward()


def liger_jsd(data: Inputs) -> None:
    from liger_kernel.transformers import LigerFusedLinearJSD

    LigerFusedLinearJSD(jsd_beta=0.0)(
        data.student_hidden, data.student_head, data.teacher_hidden, data.teacher_head, data.labels
    ).backward()


def trl_kernel(data: Inputs) -> None:
    per_token, _ = ChunkedDivergenceFunction.apply(
        data.student_hidden, data.student_head, None,
        data.teacher_hidden, data.teacher_head, None, 0.0,
    )  # fmt: skip
    per_token.mean().backward()


def trl_gkd(data: Inputs) -> None:
    student, teacher = data.logits()
    labels = data.labels[None]
    GKDTrainer.generalized_jsd_loss(student[None], teacher[None], labels, beta=0.0).backward()


def dense(data: Inputs, divergence: Divergence = forward_kl) -> None:
    student, teacher = data.logits()
    student, teacher = student.float(), teacher.float()
    mean = divergence(teacher.log_softmax(-1), student.log_softmax(-1)).mean()
    (0.5 * mean + 0.5 * F.cross_entropy(student, data.labels)).backward()


def kl_div(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    return F.kl_div(student_logp, teacher_logp, log_target=True, reduction="none").sum(-1)
