"""A model whose logits are more than hidden states times a head, or that looks ahead, is refused.

By numbers, in every command that takes hidden states for logits. First reported of other fused
losses: linkedin/Liger-Kernel PR 1477, unslothai/unsloth PR 11277.
"""

from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    FalconH1Config,
    FalconH1ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from kd_lab.loss.plain_logits import check_plain_head, check_plain_logits
from kd_lab.states import answered_rows, trained_states
from kd_lab.teacher.cache import CacheArguments, cache_teacher
from tests.helpers.cache_problem import DATA
from tests.helpers.refusal import SHAPE, refusal
from tests.helpers.toy_pair import ROWS, TOKENIZER, toy_model

SIZE = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": ROWS}
TOKEN_IDS = torch.tensor([5, 9, 3, 17, 30, 2, 11, 40, 8])


def falcon_h1():
    mamba = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
    config = FalconH1Config(
        **SIZE, **mamba, num_hidden_layers=1, num_key_value_heads=2, head_dim=16,
        mamba_chunk_size=8, lm_head_multiplier=0.1,
    )  # fmt: skip
    return FalconH1ForCausalLM(config)


def recurrent_gemma():
    config = RecurrentGemmaConfig(
        **SIZE, num_hidden_layers=3, lru_width=32, attention_window_size=16
    )
    return RecurrentGemmaForCausalLM(config)


def bert(is_decoder: bool):
    return BertLMHeadModel(BertConfig(**SIZE, num_hidden_layers=1, is_decoder=is_decoder))


def xlnet():
    return XLNetLMHeadModel(XLNetConfig(vocab_size=ROWS, d_model=32, n_layer=1, n_head=2))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=ROWS, n_embd=32, n_layer=1, n_head=2))


def mixtral():
    return MixtralForCausalLM(MixtralConfig(**SIZE, num_hidden_layers=1, num_key_value_heads=2))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (falcon_h1, "FalconH1ForCausalLM: its logits are not its last hidden states times"),
        (recurrent_gemma, "a recurrent_gemma model changes them on the way"),
        (lambda: bert(is_decoder=True), "a bert model changes them on the way"),
        (lambda: bert(is_decoder=False), "a bert model changes them on the way"),
        (xlnet, "this xlnet model is no causal language model"),
    ],
)
def test_numbers_tell_what_a_model_does_to_its_logits(make, said):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=said):
        check_plain_logits(make(), TOKEN_IDS)


@pytest.mark.parametrize("make", [falcon_h1, recurrent_gemma])
def test_what_a_configuration_says_is_refused_before_any_forward_pass(make):
    with pytest.raises(ValueError, match=r"config\.json sets (lm_head_multiplier|logits_soft_cap)"):
        check_plain_head(make())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [toy_model, gpt2, mixtral])
def test_a_plain_model_passes_in_any_dtype_and_stays_as_it_was(make, dtype):
    model = make().to(dtype).train()
    state = torch.get_rng_state()
    for tokens in (TOKEN_IDS, TOKEN_IDS[:1]):
        check_plain_logits(model, tokens)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_head_that_is_not_finite_is_said():
    model = toy_model()
    model.lm_head.weight.data[3, 4] = torch.nan
    with pytest.raises(FloatingPointError, match="logits are infinite or NaN"):
        check_plain_logits(model, TOKEN_IDS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, str]:
    """Folders of models by name; the encoder's is that of a decoder but for one key."""
    folders = {}
    for name, make in {"bert": lambda: bert(is_decoder=False), "xlnet": xlnet}.items():
        torch.manual_seed(0)
        folders[name] = str(tmp_path_factory.mktemp(name))
        make().save_pretrained(folders[name])
        TOKENIZER.save_pretrained(folders[name])
    folders["plain"] = str(tmp_path_factory.mktemp("plain"))
    toy_model().save_pretrained(folders["plain"])
    TOKENIZER.save_pretrained(folders["plain"])
    return folders


@pytest.mark.parametrize("other", ["bert", "xlnet"])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_train_asks_both_models_before_the_first_step(side, other, saved, tmp_path, capsys):
    student = ["--model_name_or_path", saved[other if side == "student" else "plain"]]
    teacher = ["--teacher_model_name_or_path", saved[other if side == "teacher" else "plain"]]
    run = ["--output_dir", str(tmp_path / "run"), "--use_cpu", "true", "--max_steps", "1"]
    run += ["--disable_tqdm", "true"]
    data = ["--num_conversations", "20"]
    assert saved[other] in refusal(capsys, "train", *student, *teacher, *run, *data)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_fine_tuning_alone_asks_as_well(saved, tmp_path, capsys):
    words = ["--alpha", "0", "--model_name_or_path", saved["xlnet"], "--num_conversations", "20"]
    run = ["--output_dir", str(tmp_path / "run"), "--use_cpu", "true", "--max_steps", "1"]
    run += ["--disable_tqdm", "true"]
    assert "no causal language model" in refusal(capsys, "train", *words, *run)


def test_cache_and_evaluation_ask_too(saved, tmp_path):
    arguments = CacheArguments(
        output_dir=str(tmp_path / "cache"), teacher_model_name_or_path=saved["xlnet"]
    )
    with pytest.raises(ValueError, match="no causal language model"):
        cache_teacher(arguments, DATA)
    rows = answered_rows([[5, 9, 3]], [[17, 30, 2]])
    with pytest.raises(ValueError, match="no causal language model"):
        next(trained_states([toy_model(), xlnet()], rows))


def test_asking_changes_no_trained_number(tmp_path, monkeypatch, capsys):
    from kd_lab.cli import main

    weights = []
    for name in ("asked", "not"):
        if name == "not":
            monkeypatch.setattr(
                "kd_lab.trainers.token_distil.check_both_models", lambda *given: None
            )
        words = ["--model_shape", SHAPE[:-1] + ", attention_dropout: 0.1}", "--alpha", "0"]
        words += ["--use_cpu", "true", "--max_steps", "3", "--num_conversations", "40"]
        assert main(["train", *words, "--output_dir", str(tmp_path / name)]) == 0
        weights.append(Path(tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
