"""A key/value cache for rows that come and go: all of them end at the right edge.

    storage      [ ' ' ' a a a a a _ _ ]      ': columns that no row needs any more
                 [ ' ' ' ' ' b b b _ _ ]      _: columns to come
                       ^start    ^stop

One more token is one more column for every row, written in place (a ``DynamicCache`` would copy
itself). A new row is written over a finished one; the others stay where they are. The view leaves
out columns at the left that no row needs. Nothing moves until the storage is full.
"""

from typing import cast

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RightAlignedCache(Cache):
    """A cache to pass to a model of transformers as ``past_key_values``.

    Every layer keeps all its columns, even with a sliding window: the window's mask hides the rest.
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_Layer)

    def _layers(self) -> "list[_Layer]":
        return cast("list[_Layer]", self.layers)

    def crop_left(self, width: int) -> None:
        """Forget all but the last ``width`` columns."""
        for layer in self._layers():
            layer.start = layer.stop - width
            layer.look()

    def keep(self, rows: Tensor) -> None:
        """Forget all but these rows: indices [B'], in the order they will have."""
        for layer in self._layers():
            layer.storage = [part.index_select(0, rows) for part in (layer.keys, layer.values)]
            layer.start, layer.stop = 0, layer.stop - layer.start
            layer.look()

    def replace(self, rows: Tensor, new: "RightAlignedCache") -> None:
        """Write another cache, no wider than this one, over these rows: indices [B_new]."""
        for layer, new_layer in zip(self._layers(), new._layers(), strict=True):
            columns = slice(layer.stop - new_layer.get_seq_length(), layer.stop)
            for part, new_part in zip(
                layer.storage, (new_layer.keys, new_layer.values), strict=True
            ):
                part[:, :, columns].index_copy_(0, rows, new_part)


class _Layer(DynamicLayer):
    """One layer: keys and values [B, heads, start:stop, head size] of a wider storage."""

    keys: Tensor  # type: ignore[assignment]  # not None once there are columns
    values: Tensor  # type: ignore[assignment]
    storage: list[Tensor]  # keys and values, [B, heads, capacity, head size]
    start = stop = 0

    def look(self) -> None:
        self.keys, self.values = (part[:, :, self.start : self.stop] for part in self.storage)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append columns [B, heads, added, head size]; returns all keys and values in view."""
        added = key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.storage = [key_states, value_states]  # full: the next column makes room
        else:
            if self.stop + added > self.storage[0].shape[-2]:
                self._make_room(added)
            for part, new in zip(self.storage, (key_states, value_states), strict=True):
                part[:, :, self.stop : self.stop + added] = new
        self.stop += added
        self.look()
        return self.keys, self.values

    def _make_room(self, added: int) -> None:
        width = self.stop - self.start
        capacity = width + added + max(32, width // 4)
        wider = []
        for part in (self.keys, self.values):
            batch, heads, _, size = part.shape
            wider.append(part.new_empty(batch, heads, capacity, size))
            wider[-1][:, :, :width] = part
        self.storage, self.start, self.stop = wider, 0, width
