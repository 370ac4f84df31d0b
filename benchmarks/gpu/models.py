"""Models of Qwen2.5's true shapes with random weights, made on the device; and rows to train on."""

from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.problem import SCALE
from kd_lab.model_shapes import QWEN25, ModelShape, shape_of
from kd_lab.vocabulary import IGNORED
from tests.helpers.qwen_vocabulary import NUM_TOKENS, ROWS_UP_TO_3B, qwen_tokenizer
from tests.helpers.toy_pair import TOKENIZER, toy_model

DEVIATION = 0.02  # of a weight, as transformers draws it
TRAINED_SHARE = 0.8  # of a row, as kd-lab plan has it
STUDENT, TEACHER = "1.5B", "7B"


class Pair(NamedTuple):
    """A float32 student and a frozen teacher, its head cut to the rows that both have."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    vocab_size: int

    @property
    def shapes(self) -> tuple[ModelShape, ModelShape]:
        return shape_of(self.student.config), shape_of(self.teacher.config)


def pair(machine: Machine, *, equal_rows: bool = False) -> Pair:
    """Qwen2.5-1.5B and 7B on a GPU, two models of the tests on a CPU.

    Args:
        equal_rows: both heads have the student's rows, which TRL's trainer wants.
    """
    if not machine.is_gpu:
        student, teacher = toy_model(32, 1, seed=1), toy_model(64, 2, seed=2)
        return Pair(student, teacher, TOKENIZER, len(TOKENIZER))
    tokenizer = qwen_tokenizer()
    rows = {"vocab_size": ROWS_UP_TO_3B} if equal_rows else {}
    student = qwen(machine, STUDENT, torch.float32, tokenizer)
    teacher = qwen(machine, TEACHER, torch.bfloat16, tokenizer, **rows)
    return Pair(student, teacher, tokenizer, NUM_TOKENS)


def qwen(
    machine: Machine,
    size: str,
    dtype: torch.dtype,
    tokenizer: PreTrainedTokenizerBase,
    **more: Any,
) -> PreTrainedModel:
    """Qwen2.5 of a size, untrained; its logits are as large as a trained model's."""
    hidden, intermediate, layers, heads, key_value_heads, rows, tied = QWEN25[size]
    settings = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "vocab_size": rows,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 32_768,
        "initializer_range": DEVIATION,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        **more,
    }
    torch.manual_seed(layers + hidden)
    with torch.device(machine.device):
        model = AutoModelForCausalLM.from_config(Qwen2Config(**settings), dtype=dtype)
    # The last norm gives every unit the size 1: a logit then has DEVIATION·√hidden.
    model.get_decoder().norm.weight.data.fill_(SCALE / (DEVIATION * hidden**0.5))
    return model


def rows(pair: Pair, count: int, length: int) -> Dataset:
    """Rows of random tokens; the last four fifths of each are trained."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, pair.vocab_size, (count, length), generator=generator)
    labels = ids.clone()
    labels[:, : prompt_length(length)] = IGNORED
    return Dataset.from_dict(
        {
            "input_ids": ids.tolist(),
            "labels": labels.tolist(),
            "prompt_length": [prompt_length(length)] * count,
        }
    )


def prompt_length(length: int) -> int:
    """How many tokens of a row are not trained."""
    return length - int(TRAINED_SHARE * length)
