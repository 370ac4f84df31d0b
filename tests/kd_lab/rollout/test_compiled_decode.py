"""The compiled step writes what the plain one writes, from one graph and one place in memory."""

import functools
import gc
import math
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._dynamo.utils import counters

from kd_lab.rollout import compiled_decode
from kd_lab.rollout.compiled_decode import parts_of
from kd_lab.rollout.sampling import Sampling
from kd_lab.rollout.transformers_engine import write_answers
from kd_lab.trainers import seq_distil
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.policy_gradient_distil import PolicyGradientDistilTrainer
from tests.helpers.refusal import SHAPE, refusal
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows
from tests.kd_lab.rollout.test_transformers_engine import (
    ENDS,
    VOCABULARY,
    eager_qwen,
    gpt2,
    qwen,
    sliding_qwen,
    some_prompts,
)

SETTINGS = {"eos_token_ids": ENDS, "seed": 0, "batch_size": 6}


@pytest.fixture
def traced(monkeypatch):
    """torch.compile up to its graph, which then runs as torch's own operations: no C++ is made."""
    backend = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(compiled_decode.torch, "compile", backend)
    counters.clear()


def both(writers, prompts, sampling, **more):
    settings = {**SETTINGS, **more}
    plain = write_answers(writers, prompts, sampling, **settings)
    return plain, write_answers(writers, prompts, sampling, compiled=True, **settings)


def small_qwen(seed=0):
    """One layer, which is traced in half the time of two."""
    return qwen(seed, num_hidden_layers=1)


def lora():
    adapters = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(small_qwen(), adapters)


@pytest.mark.parametrize("model", [qwen, gpt2, sliding_qwen, lora])
def test_the_answers_are_the_plain_ones_and_the_graph_is_one(model, traced):
    writer, prompts = model(), some_prompts(23)
    plain, compiled = both(writer, prompts, Sampling(25))
    assert compiled == plain
    assert len({len(answer.tokens) for answer in plain}) > 3  # rows came and went
    with torch.no_grad():  # as a training step does
        for weight in writer.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    moved, compiled = both(writer, prompts, Sampling(25, temperature=0))
    assert compiled == moved
    fewer, compiled = both(writer, prompts[:4], Sampling(20))
    assert compiled == fewer
    assert counters["stats"]["unique_graphs"] == 1


def test_two_writers_mix(traced):
    plain, compiled = both(
        [(small_qwen(0), 0.6), (small_qwen(1), 0.4)], some_prompts(31), Sampling(30)
    )
    assert compiled == plain


def test_a_full_storage_moves_its_columns_and_stays_where_it_is(traced, monkeypatch):
    monkeypatch.setattr(compiled_decode, "COLUMNS", 4)
    monkeypatch.setattr(compiled_decode, "SLACK", 2)
    writer, moves = small_qwen(), []
    move = compiled_decode.CompiledDecode._move_left

    def seen(decoder, width):
        moves.append([part.data_ptr() for part in parts_of(decoder.cache)])
        move(decoder, width)

    monkeypatch.setattr(compiled_decode.CompiledDecode, "_move_left", seen)
    plain, compiled = both(writer, some_prompts(60), Sampling(12), batch_size=5)
    assert compiled == plain
    assert len(moves) > 3
    (decoder,) = [compiled_decode._DECODERS[writer]]
    assert all(at == [part.data_ptr() for part in parts_of(decoder.cache)] for at in moves)


def test_longer_answers_take_a_new_storage_and_shorter_ones_keep_it(traced):
    writer = small_qwen()
    plain, compiled = both(writer, some_prompts(5), Sampling(10))
    first = compiled_decode._DECODERS[writer]
    assert compiled == plain
    plain, compiled = both(writer, some_prompts(9, longest=90), Sampling(60))
    assert compiled == plain
    longer = compiled_decode._DECODERS[writer]
    assert longer.columns > first.columns
    plain, compiled = both(writer, some_prompts(5), Sampling(10))
    assert compiled == plain
    assert compiled_decode._DECODERS[writer] is longer


def test_what_was_not_finite_is_forgotten(traced):
    writer = small_qwen()
    right, _ = both(writer, some_prompts(5), Sampling(10))
    weight = writer.model.layers[0].self_attn.v_proj.bias
    with torch.no_grad():
        weight += math.nan
    with pytest.raises(FloatingPointError, match="the logits for token 0 of the answer to"):
        both(writer, some_prompts(5), Sampling(10))
    with torch.no_grad():
        for part in parts_of(compiled_decode._DECODERS[writer].cache):
            part.fill_(math.nan)  # as a run that goes wrong later leaves it
        weight.zero_()
    plain, compiled = both(writer, some_prompts(5), Sampling(10))
    assert compiled == plain == right


def test_a_step_goes_with_its_model(traced):
    writer = small_qwen()
    write_answers(writer, [[1]], Sampling(3), compiled=True, **SETTINGS)
    model, step = weakref.ref(writer), weakref.ref(compiled_decode._DECODERS[writer])
    del writer
    gc.collect()
    assert model() is None
    assert step() is None


@pytest.mark.slow
def test_the_true_compiler_writes_the_plain_answers_too():
    plain, compiled = both(small_qwen(), some_prompts(7), Sampling(8, temperature=0))
    assert compiled == plain


def test_what_cannot_be_compiled_is_refused_in_one_line(traced):
    with pytest.raises(ValueError, match="with sdpa attention, and this one has eager: set attn"):
        write_answers(eager_qwen(), [[1]], Sampling(3), compiled=True, **SETTINGS)
    # Of a shape that no other test has: torch takes an earlier graph where one fits.
    writer = qwen(vocab_size=VOCABULARY + 1, num_hidden_layers=1)
    hook = writer.lm_head.register_forward_hook(lambda *parts: print(parts[-1].max().item()))
    with pytest.raises(ValueError, match=r"^torch.compile cannot take a step .*") as refused:
        write_answers(writer, [[1]], Sampling(3), compiled=True, **SETTINGS)
    hook.remove()
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith("leave compile_decode out")


def test_training_writes_the_same_answers(traced, tmp_path):
    """MiniLLM's two writers, whose student takes a step in between."""

    def trained(name, **settings):
        student, teacher = toy_model(32, 1, seed=1), toy_model(64, 1, seed=2)
        config = DistilConfig(
            str(tmp_path / name), use_cpu=True, per_device_train_batch_size=4, max_steps=3,
            save_strategy="no", disable_tqdm=True, max_new_tokens=6, learning_rate=1e-2,
            prefixes="student", policy_gradient=True, divergence="reverse_kl", alpha=1.0,
            **settings,
        )  # fmt: skip
        PolicyGradientDistilTrainer(
            student, teacher, config, train_dataset=toy_rows(24), processing_class=TOKENIZER
        ).train()
        return student.state_dict()

    plain, compiled = trained("plain"), trained("compiled", compile_decode=True)
    assert counters["stats"]["unique_graphs"] == 2
    for name, weight in plain.items():
        torch.testing.assert_close(compiled[name], weight, rtol=1e-4, atol=1e-6)


def test_zero3_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(seq_distil, "is_deepspeed_zero3_enabled", lambda: True)
    config = DistilConfig(
        str(tmp_path), use_cpu=True, prefixes="student", alpha=1, compile_decode=True
    )
    with pytest.raises(ValueError, match="and ZeRO-3 gathers them anew"):
        seq_distil.SeqDistilTrainer(
            toy_model(), toy_model(), config, train_dataset=toy_rows(4), processing_class=TOKENIZER
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "no answer is written during training"),
        ({"prefixes": "student", "alpha": 1, "rollout_engine": "vllm"}, "vLLM compiles its own"),
    ],
)
def test_where_it_would_have_no_effect_a_training_refuses_it(change, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        DistilConfig(str(tmp_path), compile_decode=True, use_cpu=True, **change)


def test_stored_answers_need_no_step(tmp_path):
    config = DistilConfig(str(tmp_path), compile_decode=True, use_cpu=True, prefixes="teacher")
    config.check_writers(answers_are_stored=False, use_dora=False)
    with pytest.raises(ValueError, match="compile_decode would have no effect: the answers are st"):
        config.check_writers(answers_are_stored=True, use_dora=False)


@pytest.mark.parametrize("command", ["generate", "questions", "evaluate"])
def test_other_attention_is_refused_before_the_teacher_is_looked_for(command, tmp_path, capsys):
    words = ["--model_name_or_path", "x"] if command == "evaluate" else []
    words += ["--teacher_model_name_or_path", "x", "--output_dir", str(tmp_path / "new")]
    words += ["--compile_decode", "true", "--teacher_attn_implementation", "eager"]
    line = refusal(capsys, command, *words)
    assert line.startswith("compile_decode needs sdpa attention, and teacher_attn_implementation")


@pytest.mark.parametrize(
    ("more", "key"),
    [
        (["--prefixes", "student", "--attn_implementation", "eager"], "attn_implementation"),
        (["--prefixes", "teacher"], "teacher_attn"),
        (
            ["--prefixes", "student", "--divergence", "reverse_kl", "--policy_gradient", "true"],
            "teacher_attn",  # whose share in the distribution that writes is teacher_mix
        ),
    ],
)
def test_training_refuses_other_attention_of_who_writes(more, key, tmp_path, capsys):
    words = ["--model_shape", SHAPE, "--output_dir", str(tmp_path / "new"), *more]
    words += ["--teacher_model_name_or_path", "owner/x", "--compile_decode", "true"]
    words += ["--teacher_attn_implementation", "eager"]
    line = refusal(capsys, "train", *words, "--alpha", "1", "--use_cpu", "true")
    assert line.startswith(f"compile_decode needs sdpa attention, and {key}")


def test_generate_refuses_it_for_other_engines(tmp_path, capsys):
    words = ["--teacher_model_name_or_path", "x", "--output_dir", str(tmp_path)]
    line = refusal(capsys, "generate", *words, "--engine", "vllm", "--compile_decode", "true")
    assert line.startswith("compile_decode would have no effect with engine vllm")
