"""The page on who writes the prefix: Python's numbers, by keyboard alone, and what it says."""

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_lab.divergences import get_divergence
from tests.helpers.explorable_page import open_page, settle, shown, tab_to
from toy.answer_distributions import (
    Distributions,
    divergence_by_position,
    divergence_of_answers,
    prefix_logp,
)

DIVERGENCES = ("forward_kl", "reverse_kl", "jensen_shannon")
STUDENTS = ("all", "held", "last_word")
SHARES = (0, 0.25, 1)

LANGUAGE = """async () => {
    const {NODES, STUDENTS, TEACHER, WORDS, RATE, startOf} =
        await import("/_static/explore/prefixes_engine.js");
    const starts = Object.fromEntries(
        Object.keys(STUDENTS).map(name => [name, startOf(name, 0.3)]));
    return {nodes: NODES, students: STUDENTS, teacher: TEACHER, words: WORDS, rate: RATE, starts};
}"""
MEASURED = """async ({views, z}) => {
    const engine = await import("/_static/explore/prefixes_engine.js");
    return views.map(view => {
        const q = engine.distributions(view.student, z[view.student]);
        return {...view, q, ...engine.loss(q, view), ...engine.gradients(q, view),
                whole: engine.whole(view.divergence, q), summary: engine.summary(q)};
    });
}"""
WALK = """async ({view, steps}) => {
    const engine = await import("/_static/explore/prefixes_engine.js");
    const walk = new engine.Descent(view);
    const path = [walk.q];
    for (let step = 0; step < steps; step++) { walk.advance(); path.push(walk.q); }
    return path;
}"""


def model(rows: Any) -> Distributions:
    """Next-word log-probabilities by position, from those of the ten nodes."""
    if not isinstance(rows[0], Tensor):
        rows = [torch.tensor(row, dtype=torch.float64).log() for row in rows]
    return [torch.stack(level) for level in (rows[:1], rows[1:4], rows[4:])]


def of_table(logits: list[Tensor], rows: list[int]) -> Distributions:
    return model([logits[row].log_softmax(-1) for row in rows])


def token_loss(divergence: str, teacher, student, share: float, *, later: bool) -> Tensor:
    """The loss of a share of prefixes by the student; without ``later`` they are taken as given."""
    writer = student if later else [level.detach() for level in student]
    along = [
        divergence_by_position(get_divergence(divergence), teacher, student, one).sum()
        for one in (teacher, writer)
    ]
    return (1 - share) * along[0] + share * along[1]


def test_the_language_is_what_python_takes_it_for(engine):
    told = engine.evaluate(LANGUAGE)
    assert [len(words) for words in told["words"]] == [3, 2, 2]
    assert [node["level"] for node in told["nodes"]] == [0] + [1] * 3 + [2] * 6
    parents = [node["parent"] for node in told["nodes"]]
    assert parents == [None, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert [node["word"] for node in told["nodes"][4:]] == [0, 1] * 3
    assert told["teacher"][0][2] == 1e-4  # "fish", once in 10,000 answers
    for row in told["teacher"]:
        assert sum(row) == pytest.approx(1, abs=1e-12)
    assert tuple(told["students"]) == STUDENTS
    for name, table in told["starts"].items():
        rows = [table[row] for row in told["students"][name]["rows"]]
        assert np.exp(rows[0]) == pytest.approx([0.35, 0.35, 0.3])
        assert all(np.exp(row).sum() == pytest.approx(1) for row in rows)


def test_every_number_is_pythons(engine):
    language = engine.evaluate(LANGUAGE)
    teacher = model(language["teacher"])
    draw = np.random.default_rng(0)
    z = {
        name: [[value + draw.normal() for value in row] for row in table]
        for name, table in language["starts"].items()
    }
    views = [
        {"divergence": divergence, "student": student, "share": share}
        for divergence, student, share in itertools.product(DIVERGENCES, STUDENTS, SHARES)
    ]
    for row in engine.evaluate(MEASURED, {"views": views, "z": z}):
        divergence, share = row["divergence"], row["share"]
        student = model(row["q"])
        of = get_divergence(divergence)
        weights = [
            (1 - share) * p.exp() + share * q.exp()
            for p, q in zip(prefix_logp(teacher)[:3], prefix_logp(student)[:3], strict=True)
        ]
        nats = [of(p, q) for p, q in zip(teacher, student, strict=True)]
        close = np.testing.assert_allclose
        close(row["weights"], torch.cat(weights), rtol=1e-9)
        close(row["divergences"], torch.cat(nats), rtol=1e-9, atol=1e-12)
        close(row["total"], token_loss(divergence, teacher, student, share, later=True), rtol=1e-9)
        close(row["whole"], divergence_of_answers(of, teacher, student), rtol=1e-9)
        # What follows the mistake is a language of its own, of two words.
        branch = [[one[1][2:], one[2][4:]] for one in (teacher, student)]
        after = divergence_of_answers(get_divergence("reverse_kl"), *branch)
        close(row["summary"]["after"], after, rtol=1e-9)
        assert row["summary"]["mistake"] == row["q"][0][2]


def test_the_gradients_are_autograds(engine):
    language = engine.evaluate(LANGUAGE)
    teacher = model(language["teacher"])
    z = language["starts"]
    views = [
        {"divergence": divergence, "student": "all", "share": share}
        for divergence, share in itertools.product(DIVERGENCES, SHARES)
    ]
    for row in engine.evaluate(MEASURED, {"views": views, "z": z}):
        sums = {
            False: row["here"],
            True: [np.add(*both) for both in zip(row["here"], row["later"], strict=True)],
        }
        for later, told in sums.items():
            logits = [
                torch.tensor(one, dtype=torch.float64, requires_grad=True) for one in z["all"]
            ]
            student = of_table(logits, list(range(10)))
            loss = token_loss(row["divergence"], teacher, student, row["share"], later=later)
            for due, got in zip(torch.autograd.grad(loss, logits), told, strict=True):
                np.testing.assert_allclose(got, due, rtol=1e-8, atol=1e-12)
        moves = max(abs(value) for values in row["later"] for value in values)
        assert (moves > 0.01) == (row["share"] > 0)


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize(
    ("divergence", "share", "later"),
    [("forward_kl", 0, False), ("reverse_kl", 1, True), ("jensen_shannon", 0.5, True),
     ("reverse_kl", 0.5, False)],
)  # fmt: skip
def test_every_step_is_pythons(engine, student, divergence, share, later):
    steps = 60
    view = {"student": student, "divergence": divergence, "share": share, "later": later}
    told = engine.evaluate(WALK, {"view": view | {"mistake": 0.3}, "steps": steps})
    language = engine.evaluate(LANGUAGE)
    teacher, table = model(language["teacher"]), language["students"][student]
    logits = [torch.tensor(row, dtype=torch.float64) for row in language["starts"][student]]
    for q in told:
        student_now = of_table(logits, table["rows"])
        due = torch.cat([level.exp().flatten() for level in student_now])
        np.testing.assert_allclose(np.concatenate(q), due, atol=1e-9)
        for row in logits:
            row.requires_grad_()
        student_now = of_table(logits, table["rows"])
        loss = token_loss(divergence, teacher, student_now, share, later=later)
        gradients = torch.autograd.grad(loss, logits)
        logits = [
            (row - language["rate"] * gradient * (not (table["holds"] and place == 0))).detach()
            for place, (row, gradient) in enumerate(zip(logits, gradients, strict=True))
        ]


def table(page, name: str) -> dict[str, list[str]]:
    """A table's rows by their heads."""
    rows = page.evaluate(
        """name => [...document.querySelectorAll(`[data-id="${name}"] tr`)].map(row =>
               [...row.children].map(cell => cell.textContent))""",
        name,
    )
    return {head: cells for head, *cells in rows}


def ends(page) -> dict[str, list[str]]:
    page.wait_for_selector("#prefixes[data-ends=ready]")
    return table(page, "ends")


def test_prefixes_by_keyboard(page, site_url):
    open_page(page, site_url, "prefixes")
    assert page.is_disabled('[data-id="later"]')
    assert table(page, "visits")["fish"][0] == "0.0001"
    tab_to(page, '[data-id="share"]')
    page.keyboard.press("End")
    page.keyboard.press("Tab")
    page.keyboard.press("Home")  # the mistake
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.type("reverse")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    settle(page)
    assert page.is_checked('[data-id="later"]')
    assert "divergence=reverse_kl&share=1&student=all&mistake=0.1&later=true" in page.url
    assert page.get_attribute('[data-id="share"]', "aria-valuetext") == "100%"
    assert table(page, "visits")["fish"][0] == "0.1000"
    sums = table(page, "sums")
    assert [cell.startswith("= ") for cell in sums["forward KL"]] == [True, False, False]
    assert [cell.startswith("= ") for cell in sums["reverse KL"]] == [False, True, False]
    assert not any("=" in cell for cell in sums["JSD"])
    total = table(page, "visits")["the loss"][2]
    assert float(total) == pytest.approx(float(sums["reverse KL"][1][2:]), abs=1e-3)
    tab_to(page, '[data-id="step"]')
    page.keyboard.press("Enter")
    settle(page)
    assert "After 1 step:" in shown(page, "summary")
    assert "exactly the D(q‖p) of whole answers" in shown(page, "summary")


def test_play_runs_and_a_row_sets_its_choice(page, site_url):
    open_page(page, site_url, "prefixes", "#student=held&share=0")
    page.click('[data-id="play"]')
    page.wait_for_function("document.querySelector('[data-id=play]').textContent === 'Pause'")
    page.wait_for_function(  # what is seen follows the figures, while listeners are left in peace
        """() => { const text = document.querySelector('[data-id=summary]');
             return text.getAttribute("aria-live") === "off"
                 && !/After 0 steps/.test(text.textContent);
           }"""
    )
    page.wait_for_function("document.querySelector('[data-id=play]').textContent === 'Play'")
    settle(page)
    assert page.get_attribute('[data-id="summary"]', "aria-live") == "polite"
    assert "After 1,000 steps, the last" in shown(page, "summary")
    due = ends(page)
    assert len(due) == 9
    page.click("[data-id=ends] button >> nth=5")
    settle(page)
    assert "divergence=reverse_kl&share=1" in page.url
    assert "later=true" in page.url
    assert page.locator('[data-id=ends] [aria-pressed="true"]').count() == 1


def test_the_tree_can_be_heard(page, site_url):
    open_page(page, site_url, "prefixes", "#share=1")
    told = page.text_content('[data-id="tree"] desc')
    visits = table(page, "visits")
    said = re.findall(r"After ([a-z() ]+): weight ([\d.]+), ([\d.]+) nats", told)
    assert [name for name, *_ in said] == list(visits)[:-1]
    for name, weight, nats in said:
        assert float(weight) == pytest.approx(float(visits[name][0]), abs=6e-4)
        assert nats == visits[name][1]


def test_what_the_page_on_prefixes_says(page, site_url):
    """Each link under "What to look for" opens what its sentence is about."""
    open_page(page, site_url, "prefixes")
    links = page.locator('#what-to-look-for li a[href^="#divergence="]')
    views = [links.nth(i).get_attribute("href") for i in range(links.count())]
    assert len(views) == 5
    seen = []
    for view in views:
        open_page(page, site_url, "prefixes", view)
        page.click('[data-id="end"]')
        settle(page)
        visits = table(page, "visits")
        seen.append((visits, ends(page), float(table(page, "sums")["reverse KL"][2])))
    by_teacher, by_student, local, whole, free = seen
    assert by_teacher[0]["fish until"][0] == "0.0001"
    lost, found = (
        float(by_teacher[1][f"forward KL, the {who} writes"][1]) for who in ("teacher", "student")
    )
    assert lost > 2.5
    assert found < 0.01
    assert max(float(by_student[0][node][1]) for node in ("fish", "fish until")) < 0.01
    assert (local[2], whole[2]) == (0.767, 0.464)
    assert local[1]["reverse KL, the student writes"][0] == "60 40 0"
    assert whole[1]["reverse KL, the student writes, later part too"][0] == "95 5 0"
    assert all(cells[0] == "60 40 0" and float(cells[3]) <= 0.01 for cells in free[1].values())
    assert float(free[1]["forward KL, the teacher writes"][1]) > 2.5
    text = page.inner_text("#what-to-look-for")
    assert "95% sun, and D(q‖p) falls from 0.767 to 0.464 nats" in text
