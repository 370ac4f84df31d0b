"""vLLM in earnest; `make test-vllm` runs this file, in an environment of its own (no GPU needed).

Not named as a test, since the environment of the other tests has no vLLM.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from kd_lab.data.conversations import DataArguments
from kd_lab.rollout import transformers_engine, vllm_engine
from kd_lab.rollout.generate import GenerateArguments, generate
from kd_lab.rollout.sampling import Sampling
from tests.helpers.toy_pair import TOKENIZER, toy_model

VOCABULARY = len(TOKENIZER)
ENDS = [TOKENIZER.eos_token_id, TOKENIZER.pad_token_id]


def model():
    """A head size of 32: vLLM refuses 16 on the CPU. Its padding rows would win if they could."""
    model = toy_model(width=64, layers=2)
    with torch.no_grad():
        model.lm_head.weight[VOCABULARY:] *= 5
    return model


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    model().save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llm(teacher):
    llm = vllm_engine.load(str(teacher), None, dtype="float32", max_length=128, batch_size=16)
    yield llm
    llm.llm_engine.engine_core.shutdown()


def prompts(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, VOCABULARY, rng.integers(1, 30)).tolist() for _ in range(count)]


@pytest.mark.parametrize("vocab_size", [None, VOCABULARY])
def test_greedy_answers_are_those_of_transformers(llm, vocab_size):
    settings = {"eos_token_ids": ENDS, "seed": 0, "vocab_size": vocab_size}
    sampling = Sampling(60, temperature=0)
    expected = transformers_engine.write_answers(
        model(), prompts(40), sampling, batch_size=8, **settings
    )
    assert vllm_engine.write_answers(llm, prompts(40), sampling, **settings) == expected
    above = [token for answer in expected for token in answer.tokens if token >= VOCABULARY]
    assert bool(above) == (vocab_size is None)
    assert {answer.finished for answer in expected} == {False, True} or vocab_size is None


def test_an_answer_is_fixed_by_its_seed_and_place(llm):
    counted = []

    def answers(seed, start):
        return vllm_engine.write_answers(
            llm, prompts(24)[start:], Sampling(20), eos_token_ids=ENDS, seed=seed, first_row=start,
            vocab_size=VOCABULARY, progress=lambda *counts: counted.append(counts),
        )  # fmt: skip

    first = answers(0, 0)
    assert answers(0, 0) == first
    assert answers(0, 10) == first[10:]
    assert answers(1, 0) != first
    assert counted[0] == (24, sum(len(answer.tokens) for answer in first))


def test_the_next_token_follows_the_distribution(llm):
    prompt, count = prompts(1)[0], 4000
    sampling = Sampling(1, temperature=0.8, top_k=20, top_p=0.9)
    answers = vllm_engine.write_answers(
        llm, [prompt] * count, sampling, eos_token_ids=ENDS, seed=0, vocab_size=VOCABULARY
    )
    observed = np.bincount([answer.tokens[0] for answer in answers], minlength=VOCABULARY)
    with torch.no_grad():
        logits = model()(torch.tensor([prompt])).logits[0, -1, :VOCABULARY].double() / 0.8
    weights, tokens = logits.softmax(0).topk(20)
    weights /= weights.sum()
    kept = weights.cumsum(0) - weights < 0.9
    assert observed.sum() == observed[tokens[kept]].sum()
    expected = count * weights[kept] / weights[kept].sum()
    assert chisquare(observed[tokens[kept]], expected).pvalue > 1e-3


def test_an_empty_prompt_is_refused(llm):
    with pytest.raises(ValueError, match="prompt 3 is empty"):
        vllm_engine.write_answers(llm, [[]], Sampling(1), eos_token_ids=ENDS, seed=0, first_row=3)


def test_the_command_stores_the_same_answers_with_both_engines(teacher, tmp_path):
    def completions(folder):
        rows = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.open()]
        return [row["completion_ids"] for row in rows]

    settings = {"max_new_tokens": 40, "sampling_temperature": 0.0, "rows_per_shard": 8}
    data = DataArguments(num_conversations=20, num_test_conversations=5)
    generate(
        GenerateArguments(
            output_dir=str(tmp_path / "ours"), teacher_model_name_or_path=str(teacher), **settings
        ),
        data,
    )
    words = ["--engine", "vllm", "--output_dir", str(tmp_path / "vllm")]
    words += ["--teacher_model_name_or_path", str(teacher)]
    for name, value in {**settings, **vars(data)}.items():
        words += [f"--{name}", str(value)] if value is not None else []
    subprocess.run([sys.executable, "-m", "kd_lab", "generate", *words], check=True)
    assert len(completions(tmp_path / "vllm")) == 20
    assert completions(tmp_path / "vllm") == completions(tmp_path / "ours")
