"""The transformers engine: greedy as ``generate``, sampled exactly, in any batch alike."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from kd_lab.rollout.sampling import Sampling, next_tokens, row_uniforms
from kd_lab.rollout.transformers_engine import write_answers

VOCABULARY = 90
ENDS = [3, 5, 7]
SETTINGS = {"eos_token_ids": ENDS, "seed": 0, "batch_size": 2}
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "initializer_range": 0.3}  # distributions that differ


def qwen(seed=0, vocab_size=VOCABULARY, **more):
    torch.manual_seed(seed)
    shape = {**SHAPE, "num_key_value_heads": 2, **more}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=vocab_size, **shape)).eval()


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **SHAPE)).eval()


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=64,
        bos_token_id=0, eos_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def eager_qwen():
    model = qwen()
    model.set_attn_implementation("eager")
    return model


def sliding_qwen():
    return qwen(use_sliding_window=True, sliding_window=6, max_window_layers=1)


def some_prompts(count, longest=18, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, rng.integers(1, longest)).tolist() for _ in range(count)]


def generated(model, prompt, max_new_tokens, ends):
    ids = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=0,
    )
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("model", [qwen, llama, gpt2, eager_qwen, sliding_qwen])
def test_greedy_is_generate_token_for_token(model):
    model = model()
    prompts = some_prompts(13)
    expected = [generated(model, prompt, 20, ENDS) for prompt in prompts]
    assert len({len(tokens) for tokens in expected}) > 1 or isinstance(model, GPT2LMHeadModel)
    model.train()  # with dropout, and with activation checkpointing, which switches caches off
    model.activation_checkpointing_enable()
    answers = write_answers(
        model, prompts, Sampling(20, temperature=0), eos_token_ids=ENDS, seed=0, batch_size=5
    )
    assert [answer.tokens for answer in answers] == expected
    assert [answer.finished for answer in answers] == [tokens[-1] in ENDS for tokens in expected]


def test_modes_come_back_each_as_it_was():
    model = qwen().train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    write_answers(model, [[1], [2]], Sampling(3), **SETTINGS)
    assert [module.training for module in model.modules()] == modes
    with torch.no_grad():
        model.lm_head.weight[4] = math.nan
    with pytest.raises(FloatingPointError, match="token 0 of the answer to prompt 40"):
        write_answers(model, [[1], [2]], Sampling(3), first_row=40, **SETTINGS)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("cuts", [{}, {"temperature": 0.7, "top_p": 0.8, "top_k": 20}])
def test_an_answer_does_not_depend_on_what_else_is_in_the_batch(cuts):
    model, other = qwen(0), qwen(1)
    prompts, sampling = some_prompts(19), Sampling(20, **cuts)

    def answers(prompts, **more):
        pair = [(model, 0.6), (other, 0.4)]
        return write_answers(pair, prompts, sampling, eos_token_ids=ENDS, **{"seed": 1, **more})

    together = answers(prompts, batch_size=19)
    assert len({len(answer.tokens) for answer in together}) > 5
    assert answers(prompts, batch_size=4) == together
    assert answers(prompts, batch_size=1) == together
    assert answers(prompts[9:], batch_size=5, first_row=9) == together[9:]
    assert answers(prompts, batch_size=19, seed=2) != together


def brute_force(logits, temperature, top_k, top_p):
    """Σ shareᵢ softmax(logitsᵢ/T), cut, in float64 and one token at a time."""
    p = 0.0
    for share, part in logits:
        weights = np.exp((part - part.max()) / temperature)
        p = p + share * weights / weights.sum()
    order = sorted(range(len(p)), key=lambda token: -p[token])
    order = order[: top_k or len(p)]
    kept, mass, enough = [], 0.0, top_p * p[order].sum()
    for token in order:
        kept.append(token)
        mass += p[token]
        if mass >= enough:
            break
    cut = np.zeros_like(p)
    cut[kept] = p[kept] / p[kept].sum()
    return cut


@pytest.mark.parametrize("shares", [(1.0,), (0.3, 0.7)])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.6, 0, 1.0), (2.0, 5, 1.0), (1.0, 0, 0.7), (1.5, 8, 0.8)],
)
def test_two_tokens_follow_their_exact_joint_distribution(shares, temperature, top_k, top_p):
    size, prompt, count = 12, [4, 1, 7], 6000
    models = [qwen(seed, vocab_size=size, initializer_range=0.25) for seed in range(len(shares))]

    def next_word(tokens):  # its distribution, without a cache
        with torch.no_grad():
            logits = [model(torch.tensor([tokens])).logits[0, -1].double() for model in models]
        pairs = [(share, part.numpy()) for share, part in zip(shares, logits, strict=True)]
        return brute_force(pairs, temperature, top_k, top_p)

    first = next_word(prompt)
    expected = np.concatenate([first[token] * next_word([*prompt, token]) for token in range(size)])
    answers = write_answers(
        list(zip(models, shares, strict=True)),
        [prompt] * count,
        Sampling(2, temperature, top_p, top_k),
        eos_token_ids=[],
        seed=3,
        batch_size=1500,
    )
    observed = np.zeros(size * size)
    for answer in answers:
        observed[answer.tokens[0] * size + answer.tokens[1]] += 1
    assert observed[expected == 0].sum() == 0
    common = expected * count >= 5
    rest = (~common) & (expected > 0)
    observed = np.append(observed[common], observed[rest].sum())
    expected = np.append(expected[common], expected[rest].sum()) * count
    enough = expected > 0
    assert chisquare(observed[enough], expected[enough]).pvalue > 1e-3


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from([5, 1100]),
    temperature=st.floats(0.3, 3),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(0, 10),
)
def test_only_tokens_that_the_cuts_leave_are_drawn(seed, size, temperature, top_p, top_k):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=size) * rng.uniform(0, 4)
    expected = brute_force([(1.0, logits)], temperature, top_k, top_p)
    uniforms = torch.from_numpy(rng.random(64)).float()
    uniforms[:2] = torch.tensor([0.0, 1 - 2**-24])  # the ends of the range
    rows = torch.from_numpy(logits).expand(64, size)
    drawn = next_tokens([rows], [1.0], Sampling(1, temperature, top_p, top_k), uniforms)
    outside = sorted({token for token in drawn.tolist() if expected[token] == 0})
    # float32 may keep one token more than float64 where top_p falls between two
    assert len(outside) <= 1
    for token in outside:
        kept_mass = 1 - brute_force([(1.0, logits)], temperature, top_k, 1.0)[expected == 0].sum()
        assert kept_mass == pytest.approx(top_p, abs=1e-5)
        assert logits[token] == pytest.approx(logits[expected == 0].max(), abs=1e-5)


def test_top_p_sorts_all_tokens_where_the_first_thousand_are_not_enough():
    logits = torch.zeros(1, 5000)
    logits[0, :100] = -20
    uniforms = torch.linspace(0, 0.999, 2000)
    drawn = next_tokens([logits.expand(2000, -1)], [1.0], Sampling(1, top_p=0.9), uniforms)
    assert drawn.min() >= 100
    assert len(drawn.unique()) == pytest.approx(2000, abs=2)  # spread over 4,410 tokens


def test_uniform_numbers_belong_to_a_seed_and_a_row():
    first = [row_uniforms(7, row, 5) for row in range(2000)]
    assert all((row_uniforms(7, row, 3) == first[row][:3]).all() for row in range(5))
    assert kstest(np.concatenate(first), "uniform").pvalue > 1e-3
    over_rows = np.stack(first)
    assert abs(np.corrcoef(over_rows[:-1, 0], over_rows[1:, 0])[0, 1]) < 0.1
    assert (row_uniforms(8, 0, 5) != first[0]).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_of_the_head_above_the_vocabulary_are_never_written(temperature):
    size = VOCABULARY - 12
    model = qwen(tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[size:] *= 5  # all of its mass, if it were looked at
    prompts = [[token % size for token in prompt] for prompt in some_prompts(12)]
    sampling = Sampling(12, temperature)
    whole = write_answers(model, prompts, sampling, **SETTINGS)
    assert any(token >= size for answer in whole for token in answer.tokens)
    cut = write_answers(model, prompts, sampling, vocab_size=size, **SETTINGS)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight[:size].detach())
    assert cut == write_answers(model, prompts, sampling, **SETTINGS)


def test_the_batch_is_kept_full():
    model = qwen()
    prompts, sampling = some_prompts(64), Sampling(40)
    places = []  # of a batch, in each step; the rows of each forward pass
    handle = model.register_forward_pre_hook(
        lambda _, __, inputs: places.append(len(inputs["input_ids"])), with_kwargs=True
    )
    counted = []
    answers = write_answers(
        model, prompts, sampling, eos_token_ids=ENDS, seed=0, batch_size=8,
        progress=lambda finished, written: counted.append((finished, written)),
    )  # fmt: skip
    handle.remove()
    lengths = [len(answer.tokens) for answer in answers]
    assert [sum(column) for column in zip(*counted, strict=True)] == [64, sum(lengths)]
    assert max(places) <= 8
    in_file_order = sum(8 * max(lengths[i : i + 8]) for i in range(0, 64, 8))
    assert sum(lengths) <= sum(places) < 0.7 * in_file_order
    assert sum(lengths) > 0.8 * sum(places)


def test_no_prompt_no_answer():
    assert write_answers(qwen(), [], Sampling(3), eos_token_ids=ENDS, seed=0, batch_size=2) == []


def test_what_cannot_be_written_is_refused():
    model, larger = qwen(), qwen(vocab_size=VOCABULARY + 4)
    with pytest.raises(ValueError, match="prompt 6 is empty"):
        write_answers(model, [[1], []], Sampling(3), first_row=5, **SETTINGS)
    with pytest.raises(ValueError, match="shares must be positive and sum to 1"):
        write_answers([(model, 0.5), (model, 0.6)], [[1]], Sampling(3), **SETTINGS)
    with pytest.raises(ValueError, match=r"heads have \[90, 94\] rows: say by vocab_size"):
        write_answers([(model, 0.5), (larger, 0.5)], [[1]], Sampling(3), **SETTINGS)
    with pytest.raises(ValueError, match="vocab_size 91 exceeds the 90 rows"):
        write_answers(model, [[1]], Sampling(3), vocab_size=91, **SETTINGS)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        write_answers(model, [[1]], Sampling(3), **{**SETTINGS, "batch_size": 0})
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match=r"qwen2 model has layers .*linear_attention"):
        write_answers(model, [[1]], Sampling(3), **SETTINGS)


@pytest.mark.parametrize(
    ("name", "value"),
    [*product(["temperature"], [-1.0, math.nan]), ("top_p", 0.0), ("top_p", 1.1), ("top_k", -1)],
)
def test_sampling_outside_its_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*, not {value}"):
        Sampling(3, **{name: value})
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, not 0"):
        Sampling(0)


@pytest.mark.parametrize("cut", [{}, {"top_k": 5}, {"top_p": 0.5}, {"temperature": 0.0}])
def test_logits_that_are_not_finite_have_no_token(cut):
    logits = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    logits[1, 3], logits[2, 4], logits[3] = torch.nan, torch.inf, -torch.inf
    sampling = Sampling(1, **cut)
    tokens = next_tokens([logits], [1.0], sampling, torch.full((4,), 0.5)).tolist()
    assert tokens[0] >= 0
    assert tokens[1:] == [-1] * 3
