"""A causal language model as its folder has it: every weight read, none made up, each fault named.

transformers fills weights that a file lacks with random ones, and takes an encoder for a language
model. Here both are refused. What its libraries raise for a damaged file is one line with the file.
A folder of LoRA weights is its base model with these weights merged into it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_lab.readable import readable
from kd_lab.runs.marker import check_whole, vouched_files

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER = "adapter_config.json"


def lora_base(name: str) -> tuple[str, str | None] | None:
    """Base model and revision of a folder of LoRA weights; None where the folder holds a model.

    Raises:
        ValueError: the folder's adapter_config.json cannot be read, or names no base.
    """
    path = Path(name) / ADAPTER
    if not path.is_file() or (Path(name) / "config.json").is_file():
        return None
    with readable(path):
        settings = json.loads(path.read_text(encoding="utf-8"))
        base = settings["base_model_name_or_path"]
    if not base:
        raise ValueError(f"{path} names no base model: train again with --merge_lora true")
    return str(base), settings.get("revision")


def load_config(name: str, revision: str | None = None) -> Any:
    """The model's configuration; of LoRA weights that of their base.

    Raises:
        ValueError: it cannot be read, or is of no causal language model.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    base = lora_base(name)
    if base is not None:
        return load_config(*base)
    _check_but_weights(name)
    with readable(name):
        config = AutoConfig.from_pretrained(name, revision=revision)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or config.is_encoder_decoder:
        raise ValueError(
            f"{name} is a {config.model_type} model, and no causal language model: it predicts no "
            "next token"
        )
    return config


def load_tokenizer(name: str, revision: str | None = None) -> "PreTrainedTokenizerBase":
    """The tokenizer that lies beside the model.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    if Path(name).is_dir() and not any(map(_is_of_a_tokenizer, Path(name).iterdir())):
        raise ValueError(f"{name} has no tokenizer: copy the model's tokenizer files into it")
    _check_but_weights(name)
    with readable(name):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    if not len(tokenizer):
        raise ValueError(f"{name} has no tokenizer: copy the model's tokenizer files into it")
    return tokenizer


def _is_of_a_tokenizer(file: Path) -> bool:
    """Whether a tokenizer's tokens may be in a file; transformers makes an empty one without."""
    begins = ("tokenizer.", "vocab", "merges", "spiece", "sentencepiece", "tekken")
    return file.name.startswith(begins) or file.suffix in (".model", ".tiktoken", ".spm", ".gguf")


def load_causal_lm(name: str, revision: str | None = None, **loading: Any) -> "PreTrainedModel":
    """The model with its weights, compared with the folder's marker where there is one.

    Args:
        **loading: of ``from_pretrained``: dtype, attn_implementation.
    Raises:
        ValueError: a file is damaged, missing or does not fit the configuration; weights that the
            model needs are in no file; or it is no causal language model.
    """
    from transformers import AutoModelForCausalLM

    if Path(name).is_dir():
        check_whole(Path(name))
    base = lora_base(name)
    if base is not None:
        return _with_lora(load_causal_lm(*base, **loading), name)
    load_config(name, revision)
    with readable(name):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, output_loading_info=True, **loading
        )
    model, found = loaded
    lacking = sorted(found["missing_keys"])
    if lacking:
        raise ValueError(lacks(name, lacking))
    if found["mismatched_keys"]:
        key = sorted(found["mismatched_keys"], key=str)[0]
        raise ValueError(f"{name}: {key} does not fit the shapes of its config.json")
    return model


def lacks(name: str | Path, lacking: Sequence[str]) -> str:
    """What is said of a model's files without some of its weights."""
    more = f" (and {len(lacking) - 1:,} more weights)" if len(lacking) > 1 else ""
    return (
        f"{name} holds no {lacking[0]}{more}, which a model of its config.json needs: copy or save "
        "the model anew"
    )


def _with_lora(model: "PreTrainedModel", folder: str) -> "PreTrainedModel":
    from peft import PeftModel

    with readable(folder):
        return PeftModel.from_pretrained(model, folder).merge_and_unload()  # type: ignore[return-value]


def _check_but_weights(name: str) -> None:
    """Compare a folder's small files with its marker: its template decides which rows are read."""
    folder = Path(name)
    if folder.is_dir():
        small = (
            file for file in vouched_files(folder) if not file.endswith((".safetensors", ".bin"))
        )
        check_whole(folder, only=small)
