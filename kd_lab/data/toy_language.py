"""A language small enough that the true p(answer | question) is known.

It is the front desk of a small hotel. A question asks for one of six things, for a guest, at an
hour. An answer is one of twenty sentences, some far likelier than others. It repeats the guest and
the hour of the question. So there are many good answers, and facts to copy. We can see which of the
answers a student keeps, and whether it names a guest whom nobody mentioned.

    question = "Could you book a table for Emma at seven?"
    answers(question)       # [("Of course, the table for Emma is booked at seven.", 0.278), ...]
    log_prob(question, "Sorry, there is no table for Emma at seven.")           # -1.97 nats
    log_prob(question, "Sorry, Emma can sit by the window at seven.")           # -inf
    hallucinated_values(question, "Yes, Noah can sit by the window at seven.")  # {"Noah"}

The whole language is on this page: edit a sentence here and everything else follows. An answer does
not depend on the turns before its question.
"""

import math
import random
import re
from functools import cache
from typing import Literal, NamedTuple

from kd_lab.data.messages import Message

GUESTS = ("Emma", "Noah", "Mia", "Liam", "Ruth", "Omar", "Lena", "Hugo", "Nina", "Ivan")
HOURS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

# Five ways to ask for each thing, equally likely.
QUESTIONS = {
    "table": (
        "Could you book a table for {guest} at {hour}?",
        "I need a table for {guest} at {hour}.",
        "Is there a table at {hour} for {guest}?",
        "Please keep a table for {guest} at {hour}.",
        "Can {guest} have a table at {hour}?",
    ),
    "taxi": (
        "Could you call a taxi for {guest} at {hour}?",
        "I need a taxi at {hour} for {guest}.",
        "Is there a taxi for {guest} at {hour}?",
        "Please call {guest} a taxi at {hour}.",
        "Can {guest} have a taxi at {hour}?",
    ),
    "tour": (
        "Could you book the tour at {hour} for {guest}?",
        "I need a tour for {guest} at {hour}.",
        "Is there a tour for {guest} at {hour}?",
        "Please put {guest} down for the tour at {hour}.",
        "Can {guest} join the tour at {hour}?",
    ),
    "massage": (
        "Could you book a massage for {guest} at {hour}?",
        "I need a massage at {hour} for {guest}.",
        "Is there a massage for {guest} at {hour}?",
        "Please put {guest} down for a massage at {hour}.",
        "Can {guest} have a massage at {hour}?",
    ),
    "bike": (
        "Could you keep a bike for {guest} at {hour}?",
        "I need a bike for {guest} at {hour}.",
        "Is there a bike at {hour} for {guest}?",
        "Please keep a bike at {hour} for {guest}.",
        "Can {guest} have a bike at {hour}?",
    ),
    "wake": (
        "Could you wake {guest} at {hour}?",
        "I need a call at {hour} to wake {guest}.",
        "Is there a bell to wake {guest} at {hour}?",
        "Please wake {guest} at {hour}.",
        "Can you call {guest} at {hour}?",
    ),
}

# Twenty ways to answer, the likeliest first: the r-th has a probability proportional to 1/r.
ANSWERS = {
    "table": (
        "Of course, the table for {guest} is booked at {hour}.",
        "Sorry, there is no table for {guest} at {hour}.",
        "Yes, {guest} can sit by the window at {hour}.",
        "At {hour} the best table is ready for {guest}.",
        "We will keep a table for {guest} at {hour}.",
        "Of course, {guest} is on the list for {hour}.",
        "Sorry, at {hour} we are full, so {guest} must wait.",
        "Yes, dinner for {guest} starts at {hour} in the garden.",
        "The table by the door is free for {guest} at {hour}.",
        "Sure, {guest} can have the quiet corner at {hour}.",
        "Please tell {guest} to be here by {hour}.",
        "We have a small table for {guest} at {hour}.",
        "At {hour} the kitchen opens, so {guest} can come then.",
        "Sure, the cook knows about {guest} at {hour}.",
        "Sorry, only the bar is open for {guest} at {hour}.",
        "The list says {guest} at {hour}, see you then.",
        "Yes, we will meet {guest} at the door at {hour}.",
        "Of course, a table near the fire for {guest} at {hour}.",
        "Please tell {guest} to wait in the bar at {hour}.",
        "The roof is open at {hour}, so {guest} can sit there.",
    ),
    "taxi": (
        "Yes, a taxi will wait for {guest} at {hour}.",
        "The taxi for {guest} comes to the door at {hour}.",
        "Sorry, no driver is free for {guest} at {hour}.",
        "Of course, we will call a taxi for {guest} at {hour}.",
        "Sure, the driver knows about {guest} at {hour}.",
        "At {hour} a driver will meet {guest} in the hall.",
        "Please tell {guest} to be at the gate by {hour}.",
        "Yes, {guest} can leave from the door at {hour}.",
        "Sorry, the roads are full at {hour}, so {guest} must wait.",
        "We have a red car for {guest} at {hour}.",
        "The driver will take {guest} to the town at {hour}.",
        "Of course, {guest} can have the red car at {hour}.",
        "Sorry, {guest} must take the bus at {hour}.",
        "Sure, {guest} leaves the hotel at {hour}.",
        "We will tell {guest} the taxi is here at {hour}.",
        "At {hour} the bus is free for {guest}.",
        "Yes, the car for {guest} is ready at {hour}.",
        "Please take {guest} to the gate at {hour}.",
        "Of course, the taxi at {hour} is booked for {guest}.",
        "The list says {guest} at {hour}, see you then.",
    ),
    "tour": (
        "Sure, {guest} can join the tour at {hour}.",
        "The tour with {guest} starts in the hall at {hour}.",
        "Of course, {guest} is on the list for {hour}.",
        "At {hour} the guide will meet {guest} at the gate.",
        "Sorry, the tour at {hour} is full, so {guest} must wait.",
        "Yes, {guest} has the last place at {hour}.",
        "We will take {guest} to the old town at {hour}.",
        "Please tell {guest} to have warm shoes on by {hour}.",
        "Yes, the guide will show {guest} the castle at {hour}.",
        "Sorry, no guide is free for {guest} at {hour}.",
        "The boat with {guest} leaves from the lake at {hour}.",
        "Sure, the best guide is free for {guest} at {hour}.",
        "Of course, {guest} can walk with us at {hour}.",
        "At {hour} the boat is ready for {guest}.",
        "We will see the stars with {guest} at {hour}.",
        "Please tell {guest} to be at the castle by {hour}.",
        "The guide knows about {guest} at {hour}.",
        "Sorry, only the garden is open for {guest} at {hour}.",
        "Yes, the rain stops at {hour}, so {guest} can walk.",
        "Of course, the boat at {hour} is booked for {guest}.",
    ),
    "massage": (
        "Sorry, we are full at {hour}, so {guest} must wait.",
        "Of course, {guest} has a massage at {hour}.",
        "Yes, {guest} can come to the spa at {hour}.",
        "The massage for {guest} starts at {hour}.",
        "At {hour} the spa is ready for {guest}.",
        "We have warm towels for {guest} at {hour}.",
        "Sure, {guest} can have the quiet room at {hour}.",
        "Please tell {guest} to be in the spa by {hour}.",
        "Sorry, at {hour} only the pool is free for {guest}.",
        "Of course, the massage for {guest} is booked at {hour}.",
        "Yes, the best room is free for {guest} at {hour}.",
        "At {hour} the pool is warm, so {guest} can come then.",
        "The spa knows about {guest} at {hour}.",
        "Sure, we will keep {hour} for {guest} in the spa.",
        "We will meet {guest} by the pool at {hour}.",
        "Please tell {guest} to wait by the pool at {hour}.",
        "Of course, a short massage for {guest} at {hour}.",
        "The list says {guest} at {hour}, see you then.",
        "Sorry, no room is free for {guest} at {hour}.",
        "Yes, the spa opens at {hour}, so {guest} can come then.",
    ),
    "bike": (
        "The bike for {guest} is ready at {hour}.",
        "Yes, {guest} can have the red bike at {hour}.",
        "We will keep a bike for {guest} at {hour}.",
        "Sorry, no bike is free for {guest} at {hour}.",
        "Please tell {guest} to be at the gate by {hour}.",
        "Of course, a bike will wait for {guest} at {hour}.",
        "At {hour} the best bike is free for {guest}.",
        "Sure, {guest} can take the old bike at {hour}.",
        "We have a fast bike for {guest} at {hour}.",
        "Sorry, the rain stops at {hour}, so {guest} must wait.",
        "The bike at {hour} is booked for {guest}.",
        "Yes, the bike for {guest} is by the door at {hour}.",
        "Of course, {guest} has the last bike at {hour}.",
        "Sure, we will take {guest} a bike at {hour}.",
        "Sorry, only the small bike is free for {guest} at {hour}.",
        "At {hour} the bike is in the hall for {guest}.",
        "Please tell {guest} to have a light on at {hour}.",
        "The roads are full at {hour}, so {guest} must wait.",
        "Of course, {guest} is on the list for {hour}.",
        "Yes, the cook has a bike for {guest} at {hour}.",
    ),
    "wake": (
        "We will wake {guest} at {hour}.",
        "Of course, {guest} is on the list for {hour}.",
        "At {hour} the bell will ring for {guest}.",
        "Yes, the phone of {guest} will ring at {hour}.",
        "The bell for {guest} will ring at {hour}.",
        "Sure, we will call {guest} at {hour}.",
        "Please tell {guest} to have the phone on by {hour}.",
        "Sorry, no bell will ring for {guest} at {hour}.",
        "The cook will take tea to {guest} at {hour}.",
        "We will be at the door of {guest} at {hour}.",
        "Sorry, the phone of {guest} must not ring at {hour}.",
        "Yes, {guest} will have warm tea at {hour}.",
        "At {hour} the light for {guest} comes on.",
        "Of course, we will call the room of {guest} at {hour}.",
        "Sure, {guest} can sleep, the bell is on for {hour}.",
        "Sorry, at {hour} only the dog can wake {guest}.",
        "Please tell {guest} the bell is on for {hour}.",
        "The dog will come to wake {guest} at {hour}.",
        "Yes, the list says {guest} at {hour}, so sleep well.",
        "At {hour} the driver will call {guest}.",
    ),
}

RANK_PROBABILITIES = tuple(1 / rank / sum(1 / r for r in range(1, 21)) for rank in range(1, 21))

Split = Literal["train", "test"]


class Request(NamedTuple):
    """The intent, guest and hour of a question."""

    intent: str
    guest: str
    hour: str


def questions(split: Split) -> list[str]:
    """All questions of one split, each equally likely: 2,700 in "train", 300 in "test".

    The test questions are about ten pairs of a guest and an hour that never meet in training. Each
    guest and each hour is in one of the pairs. So answering them takes copying.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', not {split!r}")
    return [
        question
        for question, request in _requests().items()
        if _is_held_out(request) == (split == "test")
    ]


def understand(question: str) -> Request:
    """The intent, guest and hour of a question.

    Raises:
        ValueError: the language has no such question.
    """
    try:
        return _requests()[question]
    except KeyError:
        raise ValueError(f"the toy language has no question {question!r}") from None


def answers(question: str) -> list[tuple[str, float]]:
    """The modes: the twenty answers to a question with their probabilities, likeliest first.

    Raises:
        ValueError: the language has no such question.
    """
    intent, guest, hour = understand(question)
    return [
        (template.format(guest=guest, hour=hour), probability)
        for template, probability in zip(ANSWERS[intent], RANK_PROBABILITIES, strict=True)
    ]


def log_prob(question: str, answer: str) -> float:
    """log p(answer | question) in nats, exactly; -inf if this is no answer to the question.

    Raises:
        ValueError: the language has no such question.
    """
    probability = dict(answers(question)).get(answer, 0.0)
    return math.log(probability) if probability else -math.inf


def sample_answer(question: str, rng: random.Random) -> str:
    """An answer drawn from p(answer | question).

    Raises:
        ValueError: the language has no such question.
    """
    texts, probabilities = zip(*answers(question), strict=True)
    return rng.choices(texts, probabilities)[0]


def hallucinated_values(question: str, answer: str) -> set[str]:
    """The guests and hours that an answer, or any text, names and the question did not give.

    Raises:
        ValueError: the language has no such question.
    """
    _, guest, hour = understand(question)
    named = set(re.findall(r"\w+", answer)) & {*GUESTS, *HOURS}
    return named - {guest, hour}


def conversations(
    count: int, seed: int, split: Split = "train", two_turn_share: float = 0.0
) -> list[dict[str, list[Message]]]:
    """``count`` conversations, ``{"messages": [{"role": ..., "content": ...}, ...]}``, by seed.

    With the same seed, asking for more conversations returns the same first ones, then new ones. In
    a share of them the user then asks a second question, for any guest and hour of the split.

    Raises:
        ValueError: an unknown split, a negative count, or a share outside [0, 1].
    """
    if count < 0:
        raise ValueError(f"count must not be negative, but is {count}")
    if not 0 <= two_turn_share <= 1:
        raise ValueError(f"two_turn_share must lie in [0, 1], not {two_turn_share}")
    rng = random.Random(seed)
    pool = questions(split)
    return [{"messages": _conversation(rng, pool, two_turn_share)} for _ in range(count)]


def _conversation(rng: random.Random, pool: list[str], two_turn_share: float) -> list[Message]:
    turns = [rng.choice(pool)]
    if rng.random() < two_turn_share:
        first_intent = understand(turns[0]).intent
        while understand(another := rng.choice(pool)).intent == first_intent:
            pass
        turns.append(another)
    return [
        message
        for question in turns
        for message in (
            Message(role="user", content=question),
            Message(role="assistant", content=sample_answer(question, rng)),
        )
    ]


@cache
def _requests() -> dict[str, Request]:
    """Every question, and its request."""
    return {
        template.format(guest=guest, hour=hour): Request(intent, guest, hour)
        for intent, templates in QUESTIONS.items()
        for template in templates
        for guest in GUESTS
        for hour in HOURS
    }


def _is_held_out(request: Request) -> bool:
    return (GUESTS.index(request.guest) + HOURS.index(request.hour)) % len(HOURS) == 0
