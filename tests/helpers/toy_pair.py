"""A small teacher and student with random weights, and rows of the toy language, for the tests."""

from functools import cache
from pathlib import Path

import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM

from kd_lab.data.examples import training_examples
from kd_lab.data.toy_language import conversations
from kd_lab.data.toy_tokenizer import toy_tokenizer

TOKENIZER = toy_tokenizer()
ROWS = 640  # of a head: more than the tokenizer's tokens, as in Qwen2.5


def toy_model(width: int = 32, layers: int = 1, seed: int = 0, **more: object) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    settings = {
        "vocab_size": ROWS,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "max_position_embeddings": 1024,
        "eos_token_id": TOKENIZER.eos_token_id,
        "pad_token_id": TOKENIZER.pad_token_id,
        "bos_token_id": None,
        "initializer_range": 0.2,  # distributions that differ: at 0.02 all are nearly uniform
        **more,
    }
    return Qwen2ForCausalLM(Qwen2Config(**settings))


def saved_toy_model(folder: Path, width: int, layers: int, seed: int) -> str:
    """The folder, with such a model and the toy tokenizer in it."""
    toy_model(width, layers, seed).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


@cache
def toy_rows(count: int, seed: int = 0, two_turn_share: float = 0.5) -> Dataset:
    """Training rows; half of them have two turns, so that their lengths differ.

    Kept for the next who asks: a Dataset's methods give new ones.
    """
    talks = Dataset.from_list(conversations(count, seed, two_turn_share=two_turn_share))
    return training_examples(talks, TOKENIZER, max_length=None).rows
