"""The one place that knows that an LM head may be sharded over processes.

The fused loss multiplies by the whole head and returns the whole head's gradient. Under DeepSpeed
ZeRO-3 and FSDP2 a process holds only a part of it. Both gather a parameter when a *module's
forward* begins and again before its backward, and reduce its gradient afterwards. So the loss runs
inside the head's own forward, and their hooks do the rest.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Result = TypeVar("Result")


def call_with_head(
    lm_head: nn.Module, function: Callable[[Tensor, Tensor, Tensor | None], Result], hidden: Tensor
) -> Result:
    """``function(hidden, weight, bias)`` as if it were the forward pass of the student's head.

    Args:
        lm_head: the student's output projection, with ``weight`` [V, H] and maybe ``bias`` [V].
        function: gets the whole weight as a plain tensor; gradients flow through ``hidden`` and it.
            It returns a tensor or a plain tuple of tensors, which is what module hooks understand.
        hidden: what the head would be called with, [..., H].
    """

    head: Any = lm_head
    if hasattr(head, "modules_to_save"):  # PEFT trains a copy beside it
        head = head.modules_to_save[head.active_adapters[0]]

    def forward(hidden: Tensor) -> Result:
        own = dict(head.named_parameters(recurse=False))
        bias = own.get("bias")
        return function(hidden, _plain(own["weight"]), None if bias is None else _plain(bias))

    replaced = head.__dict__.get("forward")  # a library may have put its own there
    head.forward = forward
    try:
        return head(hidden)
    finally:
        if replaced is None:
            del head.forward
        else:
            head.forward = replaced


@contextlib.contextmanager
def gathered_head(lm_head: nn.Module) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The whole weight [V, H] and bias of the teacher's frozen LM head, while the block lasts."""
    own = dict(lm_head.named_parameters(recurse=False))
    with contextlib.ExitStack() as stack:
        if any(hasattr(parameter, "ds_id") for parameter in own.values()):
            import deepspeed

            stack.enter_context(deepspeed.zero.GatheredParameters(list(own.values())))
        whole = {name: _plain(parameter).detach() for name, parameter in own.items()}
        yield whole["weight"], whole.get("bias")


def _plain(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
