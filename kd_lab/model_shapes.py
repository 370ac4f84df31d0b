"""The size of a model, from its configuration alone: no download, no weights.

    model_shape("Qwen/Qwen2.5-7B-Instruct").parameters     # 7,615,616,512
    model_shape("runs/qwen2.5/ultra_1.5b")                 # not trained yet: its recipe knows

For Llama and Qwen2 the number of parameters is a sum, which needs no library. For all others
transformers counts them on the meta device. So a plan can have any architecture that transformers
has. The configurations of Qwen2.5 stand here, as its public config.json files give them.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_lab.next_step import absolute, steps
from kd_lab.readable import readable
from kd_lab.smollm2 import FOLDER

if TYPE_CHECKING:  # importing transformers takes seconds, and most shapes need none of it
    from transformers import PreTrainedConfig

TOY_HEAD_ROWS = 640  # the toy tokenizer's 599 tokens, and padding as real heads have

# hidden_size, intermediate_size, layers, heads, key-value heads, rows of the head, head is tied
QWEN25 = {
    "0.5B": (896, 4864, 24, 14, 2, 151_936, True),
    "1.5B": (1536, 8960, 28, 12, 2, 151_936, True),
    "3B": (2048, 11008, 36, 16, 2, 151_936, True),
    "7B": (3584, 18944, 28, 28, 4, 152_064, False),
    "14B": (5120, 13824, 48, 40, 8, 152_064, False),
    "32B": (5120, 27648, 64, 40, 8, 152_064, False),
    "72B": (8192, 29568, 80, 64, 8, 152_064, False),
}

SMOLLM2 = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49_152,
    "tie_word_embeddings": True,
}  # fmt: skip


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a decoder-only model that decide its memory and arithmetic."""

    parameters: int  # all; a head that is tied to the embedding counts once
    layer_parameters: int  # of all layers together: those that every token is multiplied with
    layers: int
    hidden: int
    intermediate: int
    queries: int  # heads × their size
    keys: int  # key-value heads × their size
    vocabulary: int  # rows of the head

    @property
    def head(self) -> int:
        """Entries of the head's weight."""
        return self.vocabulary * self.hidden

    def lora_parameters(self, rank: int, targets: Collection[str]) -> int:
        """Parameters of LoRA's two factors beside the named linear layers of every layer."""
        width = {
            "q_proj": self.hidden + self.queries,
            "k_proj": self.hidden + self.keys,
            "v_proj": self.hidden + self.keys,
            "o_proj": self.queries + self.hidden,
            "gate_proj": self.hidden + self.intermediate,
            "up_proj": self.hidden + self.intermediate,
            "down_proj": self.intermediate + self.hidden,
        }
        return self.layers * rank * sum(width[name] for name in width if name in targets)

    def forward_flops(self, tokens: float, context: float, heads: float) -> float:
        """Floating-point operations of a forward pass; a product and a sum are two.

        Args:
            tokens: that go through the layers.
            context: length of their conversations; causal attention counts half the scores.
            heads: tokens whose logits are made, times how often.
        """
        attention = 2 * self.layers * self.queries * context
        return tokens * (2 * self.layer_parameters + attention) + heads * 2 * self.head

    def again_flops(self, tokens: float, context: float) -> float:
        """Operations of the layers' second forward pass, for checkpointed activations.

        The last product of each layer does not count: the backward pass does not need its output.
        """
        last = 2 * self.layers * self.hidden * self.intermediate
        return self.forward_flops(tokens, context, 0) - tokens * last

    def saved_bytes(
        self, width: int, residual: int, context: int = 0, *, is_frozen: bool = False
    ) -> int:
        """Bytes a token that autograd keeps of one layer for the backward pass.

        It keeps the two RMSNorms (in float32) and the linear layers' inputs. It keeps queries, keys
        and values, with keys and values repeated for each query head, and attention's output. Of
        the SwiGLU it keeps the two halves, the gate's SiLU and their product. Attention keeps no
        scores (scaled_dot_product_attention), but its mask where rows are padded.

        Args:
            width: bytes of a number in the matrix products.
            residual: bytes of a number between the layers.
            context: length of the padded rows; 0 where attention has no mask.
            is_frozen: whether its weights are not trained, as under LoRA. Then no input of a linear
                layer is kept, nor a norm's result.
        """
        # Autocast makes each linear layer a copy of its input: three of one, and two of the other.
        copies = 5 if residual > width else 2
        norms = 2 * self.hidden * (4 if is_frozen else 4 + residual)
        inputs = 0 if is_frozen else copies * self.hidden * width
        attention = 4 * self.queries * width + self.queries // 16  # and a float32 for each head
        mask = context * width
        return (
            norms + inputs + attention + mask + (3 if is_frozen else 4) * self.intermediate * width
        )

    def lora_inputs(self, targets: Collection[str]) -> int:
        """Widths of the inputs of a layer's linear layers of these names, added up."""
        width = {"o_proj": self.queries, "down_proj": self.intermediate}
        return sum(width.get(name, self.hidden) for name in targets)

    @property
    def is_tied(self) -> bool:
        """Whether the head is the embedding."""
        return self.parameters < self.layer_parameters + 2 * self.head


@cache
def model_shape(name: str, keep_every: int = 1) -> ModelShape:
    """The shape of a model by name: a folder, a Qwen2.5, or the output of a recipe here.

    Args:
        keep_every: count every k-th layer only.
    Raises:
        ValueError: it is none of these.
    """
    config = Path(name).expanduser() / "config.json"
    if config.is_file():
        return _shape_in(config, keep_every)
    known = re.fullmatch(r"(?:Qwen/)?Qwen2\.5-([\d.]+B)(?:-Instruct)?", name)
    if known and known[1] in QWEN25:
        return summed_shape(qwen25(known[1]), keep_every)
    wanted = absolute(name)
    if wanted == absolute(FOLDER):
        return summed_shape(SMOLLM2, keep_every)
    for step in steps():
        if absolute(step.folder) != wanted:
            continue
        if "model_shape" in step.settings:
            return summed_shape(untrained(step.settings["model_shape"]), keep_every)
        if "model_name_or_path" in step.settings:
            every = step.settings.get("keep_every", 1)
            return model_shape(step.settings["model_name_or_path"], every)
    raise ValueError(
        f"the size of {name} is not known: it is no folder with a config.json, no recipe here "
        f"writes it, and of the hub's models only Qwen/Qwen2.5-{{{','.join(QWEN25)}}}[-Instruct] "
        "are; save its config.json in a folder and name that"
    )


def _shape_in(config: Path, keep_every: int) -> ModelShape:
    """The shape that a config.json describes."""
    with readable(config):
        settings = json.loads(config.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("it holds no mapping")
        if _can_be_summed(settings):
            return summed_shape(settings, keep_every)
        from transformers import AutoConfig

        return shape_of(AutoConfig.from_pretrained(config.parent), keep_every)


def untrained(shape: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a recipe's ``model_shape``."""
    return {"model_type": "qwen2", "vocab_size": TOY_HEAD_ROWS, **shape}


def summed_shape(config: Mapping[str, Any], keep_every: int = 1) -> ModelShape:
    """The shape that a Llama's or Qwen2's config.json describes, by adding up its matrices."""
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    shared = config.get("num_key_value_heads") or heads
    for name, value in (
        ("hidden_size", hidden), ("intermediate_size", intermediate),
        ("num_hidden_layers", config["num_hidden_layers"]), ("num_attention_heads", heads),
        ("num_key_value_heads", shared), ("vocab_size", config["vocab_size"]),
    ):  # fmt: skip
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
    if heads % shared:
        raise ValueError(f"{heads} attention heads cannot share {shared} heads of keys and values")
    size = config.get("head_dim") or hidden // heads
    keys = shared * size
    queries, layers = heads * size, len(range(0, config["num_hidden_layers"], keep_every))
    attention = 2 * hidden * (queries + keys)
    biases = queries + 2 * keys if config["model_type"] == "qwen2" else 0
    layer = attention + biases + 3 * hidden * intermediate + 2 * hidden
    inside = layers * layer + hidden  # and the last norm
    heads_and_embeddings = 1 if config.get("tie_word_embeddings", False) else 2
    return ModelShape(
        parameters=inside + heads_and_embeddings * config["vocab_size"] * hidden,
        layer_parameters=inside,
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        queries=queries,
        keys=keys,
        vocabulary=config["vocab_size"],
    )


def shape_of(config: "PreTrainedConfig", keep_every: int = 1) -> ModelShape:
    """The shape of the model that a configuration describes, of any architecture."""
    import torch
    from transformers import AutoModelForCausalLM

    config = config.get_text_config()
    layers = len(range(0, config.num_hidden_layers, keep_every))
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    outside = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    total = sum(weight.numel() for weight in model.parameters())
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelShape(
        parameters=total,
        layer_parameters=total - sum(weight.numel() for weight in outside),
        layers=layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        queries=config.num_attention_heads * size,
        keys=config.num_key_value_heads * size,
        vocabulary=config.vocab_size,
    )


def _can_be_summed(config: Mapping[str, Any]) -> bool:
    """Whether a config.json has all terms of the sum, and no biases but Qwen2's own."""
    biased = any(config.get(key) for key in ("attention_bias", "mlp_bias"))
    is_known = config.get("model_type") in ("llama", "qwen2")
    return is_known and SMOLLM2.keys() <= config.keys() and not biased


def qwen25(size: str) -> dict[str, Any]:
    """The configuration of a Qwen2.5, such as 1.5B."""
    hidden, intermediate, layers, heads, key_value_heads, rows, tied = QWEN25[size]
    return {
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "vocab_size": rows,
        "tie_word_embeddings": tied,
    }
