"""A student and a teacher with random weights over three words and an end, and its tree."""

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from evidence.gradients.answer_tree import AnswerTree, grow_tree

END, WORDS, PROMPT, LONGEST = 0, (1, 2, 3), [2, 1], 3


def little_model(seed: int) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=6,  # two rows more than there are words
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        initializer_range=0.35,
        bos_token_id=None,
        eos_token_id=END,
    )
    return Qwen2ForCausalLM(config).double().eval()


STUDENT, TEACHER = little_model(0), little_model(1)


def little_tree(min_mass: float = 0.0, longest: int = LONGEST) -> AnswerTree:
    return grow_tree(
        STUDENT, TEACHER, PROMPT, longest=longest, min_mass=min_mass, end_token=END, vocab_size=4
    )
