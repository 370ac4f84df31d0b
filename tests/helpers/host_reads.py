"""The operations that bring a number to the host, counted: a GPU would be waited for at each.

They are the same on a CPU, where nothing is waited for.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")


class HostReads(TorchDispatchMode):
    """``names`` of the operations so far."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(part, torch.Tensor) and part.dtype == torch.bool
            for part in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if name.startswith(READS) or by_mask:
            self.names.append(name)
        return func(*args, **(kwargs or {}))
