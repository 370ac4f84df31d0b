"""LoRA: the trained student in one piece."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from kd_lab.model_check import unsharded
from kd_lab.model_loading import load_causal_lm
from kd_lab.trainers.given import causal_lm

if TYPE_CHECKING:  # it takes seconds to import
    from transformers import Trainer

PART = ".lora"  # of a run's folder, while it is merged
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def save_merged(trainer: "Trainer", folder: Path) -> None:
    """Save the student whole, its LoRA weights merged into the base; every process calls it.

    The weights are read again from the adapter and its base, so that it does not matter how
    training has sharded them.
    """
    trainer.save_model(str(folder / PART))
    if not trainer.args.should_save:
        return
    trained = causal_lm(trainer.model)
    with unsharded():
        merged = load_causal_lm(str(folder / PART), dtype=trained.dtype)
    merged.generation_config = trained.generation_config
    for name in TOKENS:
        setattr(merged.config, name, getattr(trained.config, name, None))
    merged.save_pretrained(folder)
    assert trainer.processing_class is not None
    trainer.processing_class.save_pretrained(folder)
    shutil.rmtree(folder / PART)
