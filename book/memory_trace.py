"""Which tensors are alive after each operation: where the memory of a piece of code goes.

    with MemoryTrace() as trace:
        loss = ...
        loss.backward()
    trace.peak().total               # bytes
    trace.peak().by_operation        # {"mm": ..., "exp": ...}: who made what is alive at the peak

It counts the storages that PyTorch operations allocate inside the block. Each counts once, from the
operation that made it until nothing holds it. Unlike a process's resident memory, the count is the
same on every machine. It does not see memory that a kernel allocates and frees within one
operation, nor memory that an allocator keeps. It is tested on CPUs only.
"""

import weakref
from collections import Counter
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Moment(NamedTuple):
    """The bytes alive right after one operation."""

    operation: str  # its name in ATen, such as "mm"
    by_operation: dict[str, int]  # bytes alive, by the operation that allocated them

    @property
    def total(self) -> int:
        """Bytes alive."""
        return sum(self.by_operation.values())


class MemoryTrace(TorchDispatchMode):
    """Records a ``Moment`` after every operation of the block, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: list[Moment] = []
        self._alive: Counter[str] = Counter()
        self._known: set[int] = set()  # storages seen, by their address; fake ones have one too

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        }
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf, name, given)
        self.moments.append(Moment(name, dict(+self._alive)))
        return result

    def _count(self, tensor: Tensor, name: str, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if not size or address in given or address in self._known:  # in place, a view, or counted
            return
        self._known.add(address)
        self._alive[name] += size
        weakref.finalize(storage, self._forget, address, name, size).atexit = False

    def _forget(self, address: int, name: str, size: int) -> None:
        self._known.discard(address)
        self._alive[name] -= size

    def peak(self) -> Moment:
        """The first moment with the most bytes alive.

        Raises:
            ValueError: nothing was recorded.
        """
        if not self.moments:
            raise ValueError("nothing was recorded: run PyTorch operations inside the block")
        return max(self.moments, key=lambda moment: moment.total)

    def count(self, *operations: str) -> int:
        """How many operations of these names ran: ``trace.count("mm", "addmm")``."""
        return sum(moment.operation in operations for moment in self.moments)
