"""The toy language is the ground truth of later measurements, so it is checked from outside."""

import math
import os
import random
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import pytest
from scipy import stats

from kd_lab.data.toy_language import (
    ANSWERS,
    GUESTS,
    HOURS,
    QUESTIONS,
    answers,
    conversations,
    hallucinated_values,
    log_prob,
    questions,
    sample_answer,
    understand,
)

EVERY_QUESTION = questions("train") + questions("test")
TABLE = "Could you book a table for Emma at seven?"


def values_in(text):
    return sorted(word for word in re.findall(r"\w+", text) if word in GUESTS + HOURS)


# --- the sentences -----------------------------------------------------------------------------


def test_every_question_has_one_meaning():
    assert len(EVERY_QUESTION) == len(set(EVERY_QUESTION)) == 6 * 5 * 10 * 10
    for question in EVERY_QUESTION:
        _, guest, hour = understand(question)
        assert values_in(question) == sorted([guest, hour])
    meanings = Counter(understand(question) for question in EVERY_QUESTION)
    assert set(meanings.values()) == {5}


def test_every_answer_is_a_different_sentence_of_5_to_11_words():
    for question in EVERY_QUESTION:
        texts = [text for text, _ in answers(question)]
        assert len(set(texts)) == 20
        assert all(5 <= len(re.findall(r"\w+", text)) <= 11 for text in texts)


def test_every_answer_names_the_guest_and_the_hour_of_its_question_and_no_other():
    for question in EVERY_QUESTION:
        _, guest, hour = understand(question)
        for text, _ in answers(question):
            assert values_in(text) == sorted([guest, hour])
            assert hallucinated_values(question, text) == set()


def test_the_first_words_leave_the_sentence_open():
    # Otherwise an answer's distribution would be one choice and then no more.
    for intent, templates in ANSWERS.items():
        shared = Counter(template.split()[0] for template in templates)
        assert min(shared.values()) >= 2, intent


def test_the_language_is_small():
    sentences = [t for group in (QUESTIONS, ANSWERS) for texts in group.values() for t in texts]
    words = set(re.findall(r"\w+", " ".join(sentences))) | {*GUESTS, *HOURS}
    assert 100 <= len(words) <= 150


# --- probabilities -----------------------------------------------------------------------------


def test_probabilities_fall_as_one_over_the_rank_and_sum_to_one():
    harmonic = sum(Fraction(1, rank) for rank in range(1, 21))
    expected = [float(1 / (rank * harmonic)) for rank in range(1, 21)]
    for question in EVERY_QUESTION:
        probabilities = [probability for _, probability in answers(question)]
        assert probabilities == pytest.approx(expected, rel=1e-14)
        assert math.fsum(probabilities) == pytest.approx(1, abs=1e-14)


def test_log_prob_is_that_of_the_listed_answers():
    for question in EVERY_QUESTION[::7]:
        for text, probability in answers(question):
            assert log_prob(question, text) == math.log(probability)


@pytest.mark.parametrize(
    "answer",
    [
        "Of course, the table for Noah is booked at seven.",  # another guest
        "Of course, the table for Emma is booked at eight.",  # another hour
        "Yes, a taxi will wait for Emma at seven.",  # another intent
        "Of course, the table for Emma is booked at seven",
        "Of course, the table for Emma is booked at seven. ",
        "Of course, the table by the window at seven.",
        "",
    ],
)
def test_what_the_language_cannot_say_has_no_probability(answer):
    assert log_prob(TABLE, "Of course, the table for Emma is booked at seven.") > -2
    assert log_prob(TABLE, answer) == -math.inf


def test_samples_follow_the_probabilities():
    draws = 20_000
    for question in (TABLE, "Please wake Ivan at one."):
        rng = random.Random(0)
        counts = Counter(sample_answer(question, rng) for _ in range(draws))
        sentences = [text for text, _ in answers(question)]
        assert set(counts) <= set(sentences)
        observed = [counts[text] for text in sentences]
        expected = [draws * math.exp(log_prob(question, text)) for text in sentences]
        assert stats.chisquare(observed, expected).pvalue > 0.01


def test_conversations_follow_the_probabilities_in_both_turns():
    sampled = conversations(10_000, seed=1, two_turn_share=0.5)
    for turn in (0, 1):
        ranks, asked = Counter(), Counter()
        for conversation in sampled:
            messages = conversation["messages"][2 * turn : 2 * turn + 2]
            if messages:
                question, answer = (message["content"] for message in messages)
                ranks[[text for text, _ in answers(question)].index(answer)] += 1
                asked[question] += 1
        expected = [asked.total() * probability for _, probability in answers(TABLE)]
        assert stats.chisquare([ranks[rank] for rank in range(20)], expected).pvalue > 0.01
        # Every question is as likely as another.
        counts = [asked[question] for question in questions("train")]
        assert sum(counts) == asked.total()
        assert stats.chisquare(counts).pvalue > 0.01


# --- what an answer makes up -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "made_up"),
    [
        ("Yes, Noah can sit by the window at seven.", {"Noah"}),
        ("Yes, Noah can sit by the window at eight.", {"Noah", "eight"}),
        ("Yes, Emma and Noah can sit by the window at seven.", {"Noah"}),
        ("Yes, Emma can sit by the window.", set()),
        ("no sentence: seven,ten", {"ten"}),
        ("Often someone attends.", set()),  # words that only contain a value
    ],
)
def test_hallucinated_values(answer, made_up):
    assert hallucinated_values(TABLE, answer) == made_up


# --- splits and conversations ------------------------------------------------------------------


def test_test_questions_pair_guests_and_hours_that_never_meet_in_training():
    pairs = {
        split: {understand(question)[1:] for question in questions(split)}
        for split in ("train", "test")
    }
    assert len(pairs["train"]) == 90
    assert len(pairs["test"]) == 10
    assert not pairs["train"] & pairs["test"]
    for split in pairs:
        assert {guest for guest, _ in pairs[split]} == set(GUESTS)
        assert {hour for _, hour in pairs[split]} == set(HOURS)


@pytest.mark.parametrize("split", ["train", "test"])
def test_conversations_stay_in_their_split(split):
    allowed = set(questions(split))
    for conversation in conversations(500, seed=0, split=split, two_turn_share=0.5):
        assert list(conversation) == ["messages"]
        messages = conversation["messages"]
        assert [message["role"] for message in messages] == (
            ["user", "assistant"] * (len(messages) // 2)
        )
        asked = [message["content"] for message in messages[::2]]
        assert allowed.issuperset(asked)
        assert len({understand(question).intent for question in asked}) == len(asked)


def test_the_share_of_two_turn_conversations():
    def longer(share):
        return sum(len(c["messages"]) == 4 for c in conversations(2000, 0, two_turn_share=share))

    assert longer(0) == 0
    assert longer(1) == 2000
    assert stats.binomtest(longer(0.25), 2000, 0.25).pvalue > 0.01


def test_a_seed_gives_the_same_conversations_in_another_process():
    ours = conversations(50, seed=3, two_turn_share=0.5)
    assert ours == conversations(80, seed=3, two_turn_share=0.5)[:50]
    assert ours != conversations(50, seed=4, two_turn_share=0.5)
    code = (
        "from kd_lab.data.toy_language import conversations; "
        "print(conversations(50, seed=3, two_turn_share=0.5))"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert theirs.stdout.strip() == str(ours)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: questions("dev"), "split must be 'train' or 'test', not 'dev'"),
        (lambda: conversations(1, 0, split="dev"), "split must be 'train' or 'test', not 'dev'"),
        (lambda: conversations(-1, 0), "count must not be negative, but is -1"),
        (lambda: conversations(1, 0, two_turn_share=1.5), r"two_turn_share .* not 1.5"),
        (lambda: answers("Where is Emma?"), "has no question 'Where is Emma\\?'"),
        (lambda: log_prob("Where is Emma?", "Here."), "has no question 'Where is Emma\\?'"),
        (lambda: hallucinated_values("Where?", "Here."), "has no question 'Where\\?'"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
