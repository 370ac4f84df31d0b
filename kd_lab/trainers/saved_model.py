"""A model in one piece: what a run leaves behind, whatever it was sharded into or trained with."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTTrainer

from kd_lab.trainers.alignment import (
    HiddenAlignment,
    load_alignment,
    save_alignment,
    without_alignment,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

WEIGHTS = ("model*.safetensors", "adapter_model*.safetensors", "*model*.bin")


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a model's or an adapter's weights, in one file or several."""
    return any(path.stat().st_size for pattern in WEIGHTS for path in folder.glob(pattern))


def _own_part(weight: Tensor) -> Tensor:
    """What this process has of a weight: all of it, or its shard under ZeRO-3 or FSDP2."""
    part = getattr(weight, "ds_tensor", weight).detach()
    return part.to_local() if isinstance(part, DTensor) else part


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


class SavingTrainer(SFTTrainer):
    """What it saves can be loaded: whole weights, the student's alone, no step too many."""

    alignment: HiddenAlignment | None = None  # which a checkpoint has beside the student

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # transformers asks whether training is over after a step, never before one. So a run that
        # was killed between its last checkpoint and its end would train a step too many.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def check_weights(self) -> None:
        """Refuse weights that the last step has made infinite or NaN; the next would have seen it.

        Raises:
            FloatingPointError: names the step and a weight; it is not saved.
        """
        model: Any = self.model
        trained = {name: _own_part(w) for name, w in model.named_parameters() if w.requires_grad}
        finite = torch.stack([part.isfinite().all() for part in trained.values()]).tolist()
        broken = [name for name, is_finite in zip(trained, finite, strict=True) if not is_finite]
        if broken:
            raise FloatingPointError(
                f"step {self.state.global_step}: {broken[0]} is infinite or NaN after it; the run "
                "is stopped, and its checkpoints are as they were: try a lower learning_rate or "
                "max_grad_norm, or the optimizer's own numbers, and resume"
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The whole model, also where FSDP's own checkpoints are sharded.

        Raises:
            OSError: no weights were written.
        """
        with (
            whole_state_dict(self.accelerator) if self.is_fsdp_enabled else contextlib.nullcontext()
        ):
            super().save_model(output_dir, _internal_call)
        folder = Path(output_dir or self.args.output_dir or "")
        if self.args.should_save and not _internal_call and not has_weights(folder):
            raise OSError(
                f"{folder} holds no model although it was saved: under ZeRO-3 set "
                "stage3_gather_16bit_weights_on_model_save to true, and resume"
            )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.alignment is not None:
            model: Any = self.model
            weights = (state_dict or model.state_dict()).items()
            state_dict = dict(without_alignment(weights))
        super()._save(output_dir, state_dict)
        # A pickle of the settings, which the run's config.yaml has in plain text.
        (Path(output_dir or self.args.output_dir or "") / "training_args.bin").unlink(
            missing_ok=True
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.check_weights()
        super()._save_checkpoint(model, trial)
        if self.alignment is not None and self.args.should_save and not self.is_deepspeed_enabled:
            folder = Path(self._get_output_dir(trial=trial))
            step = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            save_alignment(self.alignment, folder / step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.alignment is not None:
            load_alignment(self.alignment, Path(resume_from_checkpoint))
