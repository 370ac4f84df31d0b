"""A step of decoding whose shapes never change: compiled once, and on a GPU one CUDA graph.

A plain step launches some twenty kernels a layer from Python. A GPU waits for these launches. Here
the batch keeps its rows and the cache its columns, and a mask hides what no row needs:

    storage      [ ' ' ' a a a a a _ _ ]      ': columns that no row needs any more
                 [ ' ' ' ' ' b b b _ _ ]      _: columns to come
                 [ _ _ _ _ _ _ _ _ _ _ ]      a row that nobody writes in
                                  ^stop

A model keeps its step and its storage for its next answers. So a training compiles once.
"""

from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InductorError
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from kd_lab.rollout.right_aligned_cache import RightAlignedCache
from kd_lab.rollout.sampling_arguments import COMPILED_ATTENTION as ATTENTION

COLUMNS = 128  # the storage has a multiple of these, so that answers of like lengths share a step
SLACK = 64  # columns more than the longest answer takes: so many steps until all columns move left


class CompiledDecode:
    """The step of one model, and the keys and values of its rows.

    Args:
        model: a decoder-only model, in eval mode whenever it steps.
        rows: most answers at a time.
        columns: most tokens of a prompt and its answer.
        example: a cache that the model has filled; ours has its heads, sizes and dtype.
    Raises:
        ValueError: the model's attention is not sdpa.
    """

    def __init__(
        self, model: PreTrainedModel, rows: int, columns: int, example: RightAlignedCache
    ) -> None:
        check_attention(model)
        # The model keeps this object alive, not the other way round.
        self.rows, self.columns = rows, -(-(columns + SLACK) // COLUMNS) * COLUMNS
        self.cache = _StaticCache(rows, self.columns, example)
        self.stop = 0
        mode = "reduce-overhead" if model.device.type == "cuda" else None
        # Isolated: torch compiles one function eight times at most.
        self._step = torch.compile(  # type: ignore[call-overload]
            _step, fullgraph=True, dynamic=False, mode=mode, isolate_recompiles=True
        )

    def fits(self, rows: int, columns: int, example: RightAlignedCache) -> bool:
        """Whether these answers can be written with the storage as it is."""
        ours, theirs = (parts_of(cache)[0] for cache in (self.cache, example))
        is_like = ours.dtype == theirs.dtype and ours.device == theirs.device
        return is_like and rows <= self.rows and columns + SLACK <= self.columns

    def clear(self, width: int) -> None:
        """Forget all rows; new ones have up to ``width`` columns."""
        for part in parts_of(self.cache):
            part.zero_()  # a masked number counts nothing, and a masked NaN would
        self.stop = width

    def replace(self, rows: Tensor, new: RightAlignedCache) -> None:
        """Write another cache, no wider than this one, over these rows: indices [B_new]."""
        columns = slice(self.stop - new.get_seq_length(), self.stop)
        for part, new_part in zip(parts_of(self.cache), parts_of(new), strict=True):
            part[:, :, columns].index_copy_(0, rows, new_part)

    def logits(self, model: PreTrainedModel, ids: list[int], lengths: list[int]) -> Tensor:
        """Read one more token of every row: the logits [B, V] of the token after it.

        Args:
            ids: the tokens, of the storage's first rows.
            lengths: how many tokens each row has with this one.
        Raises:
            ValueError: torch.compile cannot take the model's step; says why.
        """
        if self.stop == self.columns:
            self._move_left(max(lengths) - 1)
        nobodys = self.rows - len(ids)
        step = torch.tensor(
            [ids + [0] * nobodys, lengths + [1] * nobodys, [self.stop] * self.rows],
            device=model.device,
        )
        torch.compiler.cudagraph_mark_step_begin()
        try:
            logits = self._step(model, self.cache, step)
        except (TorchDynamoException, InductorError) as error:
            why = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"torch.compile cannot take a step of this {model.config.model_type} model "
                f"({why}): leave compile_decode out"
            ) from error
        self.stop += 1
        return logits[: len(ids)].clone()  # a CUDA graph overwrites its result the next time

    def _move_left(self, width: int) -> None:
        """Make room at the right, in place: a CUDA graph knows the storage by its address."""
        for part in parts_of(self.cache):
            part[:, :, :width] = part[:, :, self.stop - width : self.stop].clone()
        self.stop = width


_DECODERS: "WeakKeyDictionary[PreTrainedModel, CompiledDecode]" = WeakKeyDictionary()


def compiled_decode(
    model: PreTrainedModel, rows: int, columns: int, example: RightAlignedCache
) -> CompiledDecode:
    """The step that the model has, or a new one where these answers are more or longer.

    Args and Raises: as ``CompiledDecode``.
    """
    known = _DECODERS.get(model)
    if known is None or not known.fits(rows, columns, example):
        del known
        _DECODERS.pop(model, None)  # its storage is given back before the new one is made
        _DECODERS[model] = CompiledDecode(model, rows, columns, example)
    return _DECODERS[model]


def check_attention(model: PreTrainedModel) -> None:
    """Refuse attention that takes no mask of its own for each row.

    Raises:
        ValueError: says which the model has.
    """
    attention = model.config._attn_implementation
    if attention != ATTENTION:
        raise ValueError(
            f"compile_decode needs a model with {ATTENTION} attention, and this one has "
            f"{attention}: set attn_implementation to {ATTENTION}, or leave compile_decode out"
        )


def _step(model: PreTrainedModel, cache: "_StaticCache", step: Tensor) -> Tensor:
    """Logits [B, V] after one more token; ``step`` [3, B]: tokens, lengths, the column to write."""
    ids, lengths, column = step[0, :, None], step[1, :, None], step[2, :1]
    cache.column.copy_(column)
    back = column - torch.arange(cache.columns, device=step.device)  # 0 at the new token
    seen = (back >= 0) & (back < lengths)  # [B, columns]
    output = model(
        input_ids=ids,
        attention_mask=_masks(model, seen[:, None, None], back),
        position_ids=lengths - 1,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1]


def _masks(model: PreTrainedModel, seen: Tensor, back: Tensor) -> Tensor | dict[str, Tensor]:
    """What the model's attention takes: one mask, or one for each kind of layer."""
    config = model.config.get_text_config()
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if window is None or (kinds and "sliding_attention" not in kinds):
        return seen
    near = seen & (back < window)
    return {"full_attention": seen, "sliding_attention": near} if kinds else near


def parts_of(cache: Cache) -> list[Tensor]:
    """The keys and the values of each layer, [B, heads, columns, head size]."""
    layers = cast("list[_Layer]", cache.layers)
    return [part for layer in layers for part in (layer.keys, layer.values)]


class _StaticCache(Cache):
    """Keys and values that stay where they are in memory."""

    def __init__(self, rows: int, columns: int, example: RightAlignedCache) -> None:
        parts = parts_of(example)
        self.columns = columns
        self.column = parts[0].new_zeros(1, dtype=torch.long)  # to be written next
        torch._dynamo.mark_static_address(self.column)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        super().__init__(layers=[_Layer(self, rows, *pair) for pair in pairs])


class _Layer(DynamicLayer):
    """One layer of it, with the heads, sizes and dtype of example keys and values."""

    keys: Tensor  # type: ignore[assignment]  # never None
    values: Tensor  # type: ignore[assignment]

    def __init__(self, cache: _StaticCache, rows: int, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.column = cache.column
        self.keys, self.values = (
            part.new_zeros(rows, part.shape[1], cache.columns, part.shape[3])
            for part in (keys, values)
        )
        for part in (self.keys, self.values):
            torch._dynamo.mark_static_address(part)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write one column [B, heads, 1, head size]; returns all keys and values."""
        for part, new in (self.keys, key_states), (self.values, value_states):
            part.index_copy_(2, self.column, new.to(part.dtype))
        return self.keys, self.values
