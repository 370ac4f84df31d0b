"""What the tests of teacher/cache.py share: a tiny teacher in a folder, and a cache of it."""

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from kd_lab.data.conversations import DataArguments
from kd_lab.teacher.cache import CacheArguments, run
from kd_lab.teacher.stored import StoredTeacher

DATA = DataArguments(num_conversations=30, num_test_conversations=5, two_turn_share=0.3)
WIDTH, HEAD_ROWS = 48, 608  # the head has 9 rows more than the tokenizer has tokens


def save_teacher(folder, tokenizer, seed=0, **shape):
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=HEAD_ROWS,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        **shape,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def arguments(teacher, folder, **settings):
    return CacheArguments(
        **{
            "output_dir": str(folder),
            "teacher_model_name_or_path": str(teacher),
            "rows_per_shard": 8,
            "tokens_per_batch": 200,
            "chunk_size": 16,
            **settings,
        }
    )


def cached(teacher, folder, **settings):
    run(arguments(teacher, folder, **settings), DATA)
    return StoredTeacher(folder)
