"""What ``kd-lab`` says to what it refuses: one line, and exit 2."""

from kd_lab.cli import main

# An untrained student of one layer, in words for --model_shape.
SHAPE = (
    "{hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2, "
    "num_key_value_heads: 2, tie_word_embeddings: false}"
)


def refusal(capsys, *words: str) -> str:
    """The one line with which ``kd-lab`` refuses these words."""
    assert main([*words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd-lab:")]
    assert len(lines) == 1
    return lines[0].removeprefix("kd-lab: error: ")
