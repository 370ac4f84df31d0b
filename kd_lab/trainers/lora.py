"""LoRA: which layers it may train here, and the trained student in one piece."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_lab.model_check import unsharded
from kd_lab.model_loading import load_causal_lm
from kd_lab.trainers.given import causal_lm

if TYPE_CHECKING:  # it takes seconds to import
    from transformers import Trainer

PART = ".lora"  # of a run's folder, while it is merged
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def check_lora(student: Any) -> None:
    """Refuse LoRA where it could not be saved whole; TRL refuses it on the LM head itself.

    Args:
        student: with its adapters; any other model passes.
    Raises:
        ValueError: names the option and what to do instead.
    """
    if not hasattr(student, "peft_config"):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    model = student.get_base_model()
    if model.config.get_text_config().tie_word_embeddings and any(
        isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        for module in (model.get_output_embeddings(), model.get_input_embeddings())
    ):
        raise ValueError(
            "LoRA would train the LM head or the embeddings, and this model has one matrix for "
            "both: leave them out of lora_modules_to_save and lora_target_modules"
        )


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
