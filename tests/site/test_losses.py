"""The page on what a loss optimises: Python's numbers, by keyboard alone, and what it says."""

import re
from functools import partial

import numpy as np
import pytest
import torch

from tests.helpers.explorable_page import open_page, settle, shown, tab_to
from toy.one_softmax import (
    DIRECTIONS,
    RATE,
    SAMPLED,
    STUDENTS,
    TAILS,
    TEACHER,
    TOP,
    WORDS,
    both_kls,
    descend,
    exact_gradient,
    expected_gradient,
    topk_gradient,
    variance,
    word_gradients,
)

MEASURED = """async ({words}) => {
    const engine = await import("/_static/explore/losses_engine.js");
    const rows = [];
    for (const choice of Object.keys(engine.CHOICES))
        for (const [student, q] of Object.entries(engine.STUDENTS))
            rows.push({choice, student, ...engine.CHOICES[choice],
                       ...engine.measure(choice, engine.TEACHER, q, words)});
    return {rows, words: engine.WORDS, teacher: engine.TEACHER, students: engine.STUDENTS,
            top: engine.TOP, rate: engine.RATE};
}"""
WALK = """async ({choice, student, words, steps}) => {
    const engine = await import("/_static/explore/losses_engine.js");
    const walk = new engine.Descent(choice, engine.TEACHER, engine.STUDENTS[student], words);
    const path = {student: [walk.student], sampled: [walk.sampledStudent], drawn: []};
    for (let step = 0; step < steps; step++) {
        path.drawn.push(walk.advance());
        path.student.push(walk.student);
        path.sampled.push(walk.sampledStudent);
    }
    return {...path, last: engine.distance(engine.TEACHER, walk.student)};
}"""


def gradient_of(kind: str, part: str, direction: str, q: torch.Tensor) -> torch.Tensor:
    """The expected gradient of a choice, by the toy's closed forms."""
    if kind == "sampled":
        return expected_gradient(part, TEACHER, q)
    if kind == "top":
        return topk_gradient(part, direction, TEACHER, q)
    return exact_gradient(direction, TEACHER, q)


def test_every_number_is_pythons(engine):
    told = engine.evaluate(MEASURED, {"words": 16})
    assert told["words"] == list(WORDS)
    assert (told["top"], told["rate"]) == (TOP, RATE)
    assert told["teacher"] == TEACHER.tolist()
    assert list(told["students"]) == list(STUDENTS)
    for name, q in told["students"].items():
        assert q == STUDENTS[name].tolist()
    assert {row["choice"] for row in told["rows"]} == {
        *SAMPLED, *(f"{t}.{d}" for t in (*TAILS, "whole") for d in DIRECTIONS)
    }  # fmt: skip
    for row in told["rows"]:
        q, direction = STUDENTS[row["student"]], row["direction"]
        exact = exact_gradient(direction, TEACHER, q)
        expected = gradient_of(row["kind"], row["part"], direction, q)
        size = float(exact.norm())
        noise = variance(row["part"], TEACHER, q) / size**2 if row["kind"] == "sampled" else 0
        bias = float((expected - exact).norm()) / size
        where = f"{row['choice']}, {row['student']}"
        close = partial(np.testing.assert_allclose, atol=1e-3, rtol=1e-3, err_msg=where)
        close(row["exact"], exact)
        close(row["expected"], expected)
        close(row["length"], float(expected.norm()) / size)
        close(row["bias"], bias)
        close(row["variance"], noise)
        close(row["error"], (bias**2 + noise / 16) ** 0.5)
        if row["cosine"] is not None:
            close(row["cosine"], torch.cosine_similarity(exact, expected, dim=0))


@pytest.mark.parametrize(
    ("choice", "student"),
    [
        ("k3_loss", "flat"), ("k1_baseline", "near"), ("sampled_bucket", "flat"),
        ("bucket.reverse_kl", "collapsed"), ("clamped.forward_kl", "flat"),
        ("both_renormalised.forward_kl", "too sharp"), ("fixed.reverse_kl", "flat"),
    ],
)  # fmt: skip
def test_every_step_is_pythons(engine, choice, student):
    steps, words = 60, 4
    told = engine.evaluate(
        WALK, {"choice": choice, "student": student, "words": words, "steps": steps}
    )
    part, _, direction = choice.partition(".")
    kind = "top" if direction else "sampled"
    due = descend(partial(gradient_of, kind, part, direction), STUDENTS[student], steps)
    np.testing.assert_allclose(told["student"], due, atol=1e-3)
    kls = both_kls(TEACHER, due[-1])
    assert [told["last"][key] for key in ("forward", "reverse")] == pytest.approx(kls, abs=1e-3)
    if kind == "top":
        assert told["drawn"] == [None] * steps
        return
    z = STUDENTS[student].log()
    for step, counts in enumerate(told["drawn"]):  # the same words, followed in Python
        np.testing.assert_allclose(told["sampled"][step], z.softmax(-1), atol=1e-3)
        assert sum(counts) == words
        share = torch.tensor(counts, dtype=torch.float64) / words
        z = z - RATE * (share @ word_gradients(part, TEACHER, z.softmax(-1)))


def test_draws_are_of_the_student(engine):
    counts = engine.evaluate(
        """async () => {
             const engine = await import("/_static/explore/losses_engine.js");
             return engine.draw(engine.TEACHER, 100000, engine.chance(3));
           }"""
    )
    np.testing.assert_allclose(np.array(counts) / 1e5, TEACHER, atol=6e-3)


def number(page, row: str) -> float:
    """A cell of the table of numbers, the first of its two."""
    cells = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('[data-id="numbers"] tr')]
               .map(row => [...row.children].map(cell => cell.textContent)))"""
    )
    return float(cells[row].split(" · ")[0].replace("−", "-"))


def test_losses_by_keyboard(page, site_url):
    open_page(page, site_url, "losses")
    assert page.input_value('[data-id="loss"]') == "k3_loss"
    tab_to(page, '[data-id="loss"]')
    page.keyboard.type("k1 as a loss")
    tab_to(page, '[data-id="student"]')
    page.keyboard.type("collapsed")
    tab_to(page, '[data-id="words"]')
    page.keyboard.press("Home")
    settle(page)
    assert page.input_value('[data-id="loss"]') == "k1_loss"
    assert "loss=k1_loss&student=collapsed&words=0" in page.url
    q = STUDENTS["collapsed"]
    size = float(exact_gradient("reverse_kl", TEACHER, q).norm())
    assert number(page, "bias") == 1
    assert number(page, "length of the expected gradient") == 0
    assert number(page, "variance of one word") == pytest.approx(
        variance("k1_loss", TEACHER, q) / size**2, rel=1e-2
    )
    assert page.get_attribute('[data-id="words"]', "aria-valuetext") == "1"
    tab_to(page, '[data-id="step"]')
    page.keyboard.press("Enter")
    settle(page)
    assert "After 1 step:" in shown(page, "summary")
    tab_to(page, '[data-id="end"]')
    page.keyboard.press("Enter")
    settle(page)
    assert number(page, "D(p‖q), nats") == pytest.approx(both_kls(TEACHER, q)[0], rel=1e-2)


def test_play_runs_and_pauses(page, site_url):
    open_page(page, site_url, "losses", "#loss=bucket.forward_kl&student=flat")
    assert page.is_disabled('[data-id="words"]')
    page.click('[data-id="play"]')
    page.wait_for_function("document.querySelector('[data-id=play]').textContent === 'Pause'")
    page.wait_for_function("document.querySelector('[data-id=play]').textContent === 'Play'")
    settle(page)  # it has come to rest by itself
    assert "and it rests" in shown(page, "summary")
    assert number(page, "student's mass on the last 4") == pytest.approx(0.13, abs=1e-3)
    page.click('[data-id="back"]')
    settle(page)
    assert "After 0 steps" in shown(page, "summary")


def test_the_picture_can_be_heard(page, site_url):
    open_page(page, site_url, "losses", "#loss=k3_loss&student=collapsed&words=4")
    told = page.text_content('[data-id="arrows"] desc')
    forward, reverse = (
        -exact_gradient(direction, TEACHER, STUDENTS["collapsed"]) for direction in DIRECTIONS
    )
    for v, word in enumerate(WORDS):
        pushes = re.search(rf"{word}: exact (\S+), expected (\S+), sampled", told)
        assert pushes is not None
        exact, expected = (float(push.replace("−", "-")) for push in pushes.groups())
        assert exact == pytest.approx(float(reverse[v]), rel=1e-2, abs=1e-4)
        assert expected == pytest.approx(float(forward[v]), rel=1e-2, abs=1e-4)


def test_what_the_page_on_losses_says(page, site_url):
    """Each link under "What to look for" opens what its sentence is about."""
    open_page(page, site_url, "losses")
    links = page.locator('#what-to-look-for li a[href^="#loss="]')
    views = [links.nth(i).get_attribute("href") for i in range(links.count())]
    assert len(views) == 8
    seen = {}
    for view in views:
        open_page(page, site_url, "losses", view)
        choice = view.removeprefix("#loss=").partition("&")[0]
        assert page.input_value('[data-id="loss"]') == choice
        text = page.text_content('[data-id="arrows"] desc')
        seen[choice] = re.findall(r"expected ([+−]?[\d.]*\d(?:e−\d+)?)", text)
        page.click('[data-id="end"]')
        settle(page)
        seen[f"{choice} tail"] = number(page, "student's mass on the last 4")
    assert set(seen["k1_loss"]) == {"0"}
    assert seen["k3_loss"] == seen["whole.forward_kl"]
    assert seen["k2_loss"] == seen["k1_reward"]
    assert seen["teacher_renormalised.forward_kl tail"] < 0.01
    assert seen["truncated.reverse_kl tail"] == pytest.approx(2 / 3, abs=0.02)
    assert seen["both_renormalised.forward_kl tail"] > 0.3
