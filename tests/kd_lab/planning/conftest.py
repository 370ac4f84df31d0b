"""What the tests of the planner share."""

import pytest
from transformers import LlamaConfig


@pytest.fixture
def smollm2(tmp_path):
    """SmolLM2-135M's configuration, in a folder without weights."""
    LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=49_152, tie_word_embeddings=True,
    ).save_pretrained(tmp_path / "SmolLM2")  # fmt: skip
    return str(tmp_path / "SmolLM2")
