"""Runs to plan: a recipe's, and the shape of a small model."""

from kd_lab.cli import parse
from kd_lab.planning.planned_run import make_job

WIDE = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def planned(recipe, *words):
    return make_job(*parse("plan", ["--config", recipe, *words]))
