"""A model in one piece: what a run leaves behind, whatever it was sharded into."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator

WEIGHTS = ("model*.safetensors", "adapter_model*.safetensors", "*model*.bin")


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a model's or an adapter's weights, in one file or several."""
    return any(path.stat().st_size for pattern in WEIGHTS for path in folder.glob(pattern))


@contextlib.contextmanager
def whole_state_dict(accelerator: "Accelerator") -> Iterator[None]:
    """Have transformers save a whole model under FSDP; it saves none where checkpoints are sharded.

    accelerate's default for version 2 is sharded, which suits the checkpoints that are resumed.
    """
    plugin = accelerator.state.fsdp_plugin
    before = plugin.state_dict_type
    plugin.set_state_dict_type("FULL_STATE_DICT")
    try:
        yield
    finally:
        plugin.set_state_dict_type(before)
