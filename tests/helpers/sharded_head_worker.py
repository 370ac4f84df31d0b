"""One process of test_sharded_head.py: a student whose head is sharded by ZeRO-3 or FSDP2.

Each process takes half of the tokens; rank 0 writes the loss and the whole model's gradients.
"""

import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kd_lab.loss import fused_linear_distillation_loss
from kd_lab.loss.sharded_head import call_with_head, gathered_head

TOKENS, VOCAB, WIDTH = 32, 53, 8


class Student(nn.Module):
    """A backbone and a head; its forward is the loss, as it is inside a trainer's wrapper."""

    def __init__(self, teacher_head: nn.Linear) -> None:
        super().__init__()
        self.backbone = nn.Linear(WIDTH, WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.teacher_head = [teacher_head]  # in a list: not a submodule

    def forward(self, inputs: Tensor, teacher_hidden: Tensor, labels: Tensor) -> Tensor:
        with gathered_head(self.teacher_head[0]) as (teacher_weight, _):

            def loss(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
                return fused_linear_distillation_loss(
                    hidden, weight, teacher_hidden, teacher_weight, labels,
                    num_items=TOKENS / dist.get_world_size(), chunk_size=5,
                ).loss  # fmt: skip

            return call_with_head(self.lm_head, loss, torch.tanh(self.backbone(inputs)))


def write_loss_and_gradients(how: str, path: Path) -> None:
    """Writes them as JSON; how: zero3 or fsdp2."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    teacher_head = nn.Linear(2 * WIDTH, VOCAB, bias=False).requires_grad_(False)
    student = Student(teacher_head)
    inputs, teacher_hidden = torch.randn(TOKENS, WIDTH), torch.randn(TOKENS, 2 * WIDTH)
    labels = torch.randint(0, VOCAB, (TOKENS,))
    mine = slice(rank * TOKENS // world, (rank + 1) * TOKENS // world)
    batch = inputs[mine], teacher_hidden[mine], labels[mine]

    if how == "zero3":
        import deepspeed
        from deepspeed.utils import safe_get_full_grad

        engine, *_ = deepspeed.initialize(
            model=student,
            optimizer=torch.optim.AdamW(student.parameters()),
            config={
                "train_batch_size": world,
                "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
                "zero_allow_untested_optimizer": True,
            },
        )
        assert student.lm_head.weight.numel() == 0, "the head is not sharded"
        loss = engine(*batch)
        engine.backward(loss)
        gradients = {name: safe_get_full_grad(p) for name, p in student.named_parameters()}
    else:
        from torch.distributed.fsdp import fully_shard

        fully_shard(student.lm_head)
        fully_shard(student)
        loss = student(*batch)
        loss.backward()
        gradients = {name: p.grad.full_tensor() for name, p in student.named_parameters()}
    dist.all_reduce(loss := loss.detach())
    if rank == 0:
        values = {name: gradient.tolist() for name, gradient in gradients.items()}
        path.write_text(json.dumps({"loss": loss.item() / world, "gradients": values}))
    dist.barrier()
    dist.destroy_process_group()
