"""Rows and answers for which a model has no positions are refused, in one line, in every command.

First reported of other programs: huggingface/transformers 6559 and 28393.
"""

import pytest
from transformers import (
    BloomConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MptConfig,
    OPTConfig,
    Qwen2Config,
    XLNetConfig,
)

from kd_lab.positions import position_limit
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.seq_distil import SeqDistilTrainer
from kd_lab.trainers.token_distil import TokenDistilTrainer
from tests.helpers.refusal import SHAPE, refusal
from tests.helpers.toy_pair import ROWS, TOKENIZER, toy_model, toy_rows

POSITIONS = 20  # a training row of the toy language has up to some thirty tokens
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (GPT2Config(n_positions=32), 32),
        (OPTConfig(max_position_embeddings=64), 64),
        (MptConfig(max_seq_len=48), 48),
        (Qwen2Config(max_position_embeddings=32_768), 32_768),
        (Qwen2Config(max_position_embeddings=32_768, rope_parameters=YARN), 131_072),
        (Qwen2Config(max_position_embeddings=131_072, rope_parameters=YARN), 131_072),
        (MambaConfig(), None),
        (BloomConfig(), None),
        (XLNetConfig(), None),
    ],
)
def test_the_limit_is_read_from_the_configuration(config, limit):
    assert position_limit(config) == limit


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("gpt2")
    GPT2LMHeadModel(
        GPT2Config(vocab_size=ROWS, n_embd=32, n_layer=1, n_head=2, n_positions=POSITIONS)
    ).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def rotary(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("rotary")
    toy_model(max_position_embeddings=POSITIONS).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


ON_POLICY = ["--prefixes", "student", "--alpha", "1", "--max_new_tokens", "64"]


@pytest.mark.parametrize("which", ["gpt2", "rotary"])
@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("train", ["--alpha", "0", "--model_name_or_path", "{}"], "the longest training row of"),
        (
            "train",
            ["--model_shape", SHAPE, "--teacher_model_name_or_path", "{}"],
            "the longest training row of",
        ),
        (
            "train",
            ["--model_shape", SHAPE, "--teacher_model_name_or_path", "{}", *ON_POLICY],
            "tokens, with max_new_tokens 64, needs",
        ),
        ("cache", ["--teacher_model_name_or_path", "{}"], "the longest row of"),
        ("generate", ["--teacher_model_name_or_path", "{}"], "with max_new_tokens 512, needs"),
        ("evaluate", ["--model_name_or_path", "{}"], "with max_new_tokens 512, needs"),
        ("questions", ["--teacher_model_name_or_path", "{}"], "the chat template's user header"),
    ],
)
def test_every_command_counts_them(which, command, words, said, tmp_path, capsys, request):
    folder = request.getfixturevalue(which)
    more = ["--use_cpu", "true"] if command == "train" else []
    if command != "questions":
        more += ["--num_conversations", "20"]
    words = [word.format(folder) if word == "{}" else word for word in words]
    line = refusal(capsys, command, *words, *more, "--output_dir", str(tmp_path / "out"))
    assert f"{folder} has {POSITIONS} positions, and " in line
    assert said in line
    assert ": lower max_" in line


@pytest.mark.parametrize("who", ["the student", "the teacher"])
@pytest.mark.parametrize(
    ("trainer", "point", "said"),
    [
        (TokenDistilTrainer, {"alpha": 0.5}, "the longest training row of"),
        (SeqDistilTrainer, {"prefixes": "student", "alpha": 1.0}, "with max_new_tokens 32, needs"),
    ],
)
def test_a_trainer_built_from_python_counts_them_too(who, trainer, point, said, tmp_path):
    models = {"the student": toy_model(), "the teacher": toy_model()}
    models[who] = toy_model(max_position_embeddings=POSITIONS)
    with pytest.raises(ValueError, match=f"{who} has {POSITIONS} positions, and .*{said}"):
        trainer(
            models["the student"],
            models["the teacher"],
            DistilConfig(str(tmp_path), use_cpu=True, max_steps=1, max_new_tokens=32, **point),
            train_dataset=toy_rows(8),
            processing_class=TOKENIZER,
        )
