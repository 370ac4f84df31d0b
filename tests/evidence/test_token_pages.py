"""The numbers behind the page on tokens, from a study of ten tiny models made here."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from evidence import token_pages
from evidence.token_pages import choose_questions, grammar_next, measure
from kd_lab.data.toy_language import answers
from kd_lab.study.toy import SECONDS
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

NAMES = ["teacher", "start", *(f"{method}-1" for method in SECONDS)]
END = "<|im_end|>"
COMMITTED = Path(__file__).parents[2] / "assets" / "results" / "token_pages.json"


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory) -> Path:
    """One model, taught until it ends its answers, and nine that differ from it by noise."""
    folder = tmp_path_factory.mktemp("study")
    model = toy_model(initializer_range=0.02)
    rows = toy_rows(32, two_turn_share=0)
    batch = TOKENIZER.pad({"input_ids": rows["input_ids"]}, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
    taught = {name: weight.clone() for name, weight in model.state_dict().items()}
    torch.manual_seed(1)
    for name in NAMES:
        model.load_state_dict({k: w + 0.01 * torch.randn_like(w) for k, w in taught.items()})
        model.save_pretrained(folder / name)
        TOKENIZER.save_pretrained(folder / name)
        (folder / name / "complete").touch()
    return folder


@pytest.fixture(scope="module")
def study(study_folder) -> dict:
    return measure(study_folder, examples=40, samples=2)


def next_distribution(model: torch.nn.Module, question: str, prefix: list[int]) -> np.ndarray:
    """One forward pass over one prefix, and a softmax by hand; [tokens of the tokenizer]."""
    prompt = TOKENIZER.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True
    )["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *prefix]])).logits[0, -1]
    z = logits[: len(TOKENIZER)].double().numpy()
    exponentials = np.exp(z - z.max())
    return exponentials / exponentials.sum()


def test_every_number_is_that_of_a_plain_forward_pass(study_folder, study):
    models = [AutoModelForCausalLM.from_pretrained(study_folder / name) for name in NAMES]
    ids_of = {TOKENIZER.decode([i]): i for i in range(len(TOKENIZER))}
    compared = 0
    for question in study["questions"][::4]:
        for answer in question["answers"]:
            if "\ufffd" in json.dumps(answer, ensure_ascii=False):
                continue  # half a letter, whose token cannot be told from how it reads
            ids = [ids_of[position["tokens"][0]] for position in answer["positions"]]
            for n, position in enumerate(answer["positions"]):
                shown = [ids_of[token] for token in position["tokens"]]
                text = question["question"]
                whole = [next_distribution(model, text, ids[:n]) for model in models]
                due = [probabilities[shown] for probabilities in whole]
                np.testing.assert_allclose(position["p"], due, rtol=1e-3, atol=1e-8)
                p = whole[0]
                for name, due in (
                    ("forward_kl", [(p * np.log(p / q)).sum() for q in whole]),
                    ("reverse_kl", [(q * np.log(q / p)).sum() for q in whole]),
                ):
                    np.testing.assert_allclose(position[name], due, rtol=1e-2, atol=1e-6)
                compared += 1
    assert compared > 40


def test_the_grammar_by_counting_sentences(study):
    beginnings = 0
    for question in study["questions"]:
        sentences = [([*_words(a), END], p) for a, p in answers(question["question"])]
        for answer in question["answers"]:
            taken = [position["tokens"][0] for position in answer["positions"]]
            for n, position in enumerate(answer["positions"]):
                alike = [(words[n], p) for words, p in sentences if words[:n] == taken[:n]]
                if not alike:
                    assert position["grammar"] is None
                    assert position["grammar_kl"] is None
                    continue
                mass = sum(p for _, p in alike)
                due = [sum(p for word, p in alike if word == t) / mass for t in position["tokens"]]
                assert position["grammar"] == pytest.approx(due, rel=1e-3)
                beginnings += 1
    assert beginnings > 50


def _words(answer: str) -> list[str]:
    return re.findall(r" ?\w+|[.,]", answer)


def test_the_grammars_divergence_is_what_the_shown_distribution_gives(study):
    # The truth has few outcomes, and all of them are shown, so D(grammar‖model) can be redone.
    for question in study["questions"]:
        for answer in question["answers"]:
            for position in answer["positions"]:
                if position["grammar"] is None or len(position["tokens"]) == token_pages.SHOWN:
                    continue
                truth = np.array(position["grammar"])
                for shown, kl in zip(position["p"], position["grammar_kl"], strict=True):
                    inside = truth > 0
                    ratio = np.log(truth[inside] / np.array(shown)[inside])
                    assert (truth[inside] * ratio).sum() == pytest.approx(kl, rel=0.02, abs=2e-3)


def test_contrasts_are_the_extremes_of_what_was_sampled(study):
    names = [model["name"] for model in study["models"]]
    forward, reverse = names.index(token_pages.FORWARD), names.index(token_pages.REVERSE)

    def worth(answer: dict) -> float:
        return sum(math.log(p["p"][forward][0] / p["p"][reverse][0]) for p in answer["positions"])

    by_source = [
        {answer["from"]: worth(answer) for answer in question["answers"]}
        for question in study["questions"]
    ]
    pairs = [w for w in by_source if token_pages.FORWARD in w and token_pages.REVERSE in w]
    assert len(pairs) > 6
    assert all(pair[token_pages.FORWARD] > pair[token_pages.REVERSE] for pair in pairs)


def test_questions_by_the_rule():
    table = [f"I need a table for {guest} at ten." for guest in ("Emma", "Noah", "Mia")]
    taxi = ["Is there a taxi for Emma at ten?", "Please call Emma a taxi at ten."]
    questions = [table[0], taxi[0], table[0], table[1], taxi[1], table[2]]
    gaps = [9.0, 1.0, 8.0, 2.0, 0.5, 3.0]  # the first of its kind is not taken twice
    assert choose_questions(questions, gaps) == [
        (0, "first"), (5, "divides"), (1, "first"), (4, "divides"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="one question about 'taxi'"):
        choose_questions(questions[:4], gaps)


def test_the_distribution_after_a_beginning():
    sentences = [([1, 2, 9], 0.5), ([1, 3, 9], 0.3), ([4, 9], 0.2)]
    assert grammar_next(sentences, []) == pytest.approx({1: 0.8, 4: 0.2})
    assert grammar_next(sentences, [1]) == pytest.approx({2: 0.625, 3: 0.375})
    assert grammar_next(sentences, [1, 3]) == {9: 1.0}
    assert grammar_next(sentences, [2]) is None
    assert grammar_next(sentences, [4, 9]) is None


def test_same_study_same_numbers(study_folder, study):
    again = measure(study_folder, examples=40, samples=2)
    assert again["questions"] == study["questions"]


def test_a_missing_model_is_named(study_folder, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(study_folder / "teacher", part / "teacher")
    with pytest.raises(ValueError, match="no finished start") as refusal:
        measure(part)
    assert "\n" not in str(refusal.value)


def test_what_is_committed_is_whole():
    study = json.loads(COMMITTED.read_text())
    assert COMMITTED.stat().st_size < 600_000
    assert len(study["questions"]) == 12
    for question in study["questions"]:
        for answer in question["answers"]:
            if answer["grammar_log_prob"] is not None:
                truth = sum(math.log(p["grammar"][0]) for p in answer["positions"])
                assert truth == pytest.approx(answer["grammar_log_prob"], abs=2e-3)
            for position in answer["positions"]:
                assert max(sum(distribution) for distribution in position["p"]) < 1.001
                assert position["forward_kl"][0] == position["reverse_kl"][0] == 0
