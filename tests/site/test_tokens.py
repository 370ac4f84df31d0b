"""The page on tokens: by keyboard alone, and with the numbers of the study's file."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.explorable_page import open_page, settle, shown, tab_to

RESULTS = Path(__file__).parents[2] / "assets" / "results"
STUDY = json.loads((RESULTS / "token_pages.json").read_text())
MODELS = [model["name"] for model in STUDY["models"]]


def distribution(position: dict, side: str) -> list[float] | None:
    return position["grammar"] if side == "grammar" else position["p"][MODELS.index(side)]


def nats(value: float) -> str:
    return f"{value:.2f}".replace("-", "−") if math.isfinite(value) else "−∞"


def words(answer: dict) -> list[str]:
    return [
        "(end)" if p["tokens"][0] == "<|im_end|>" else p["tokens"][0].strip()
        for p in answer["positions"]
    ]


def table(page, name: str) -> dict[str, list[str]]:
    """The rows of a table by their header, as text."""
    rows = page.evaluate(
        """name => [...document.querySelectorAll(`[data-id="${name}"] tr`)].map(row =>
               [row.querySelector('th').firstChild.textContent,
                ...[...row.querySelectorAll('td.number')].map(cell => cell.textContent)])""",
        name,
    )
    return {head: cells for head, *cells in rows}


def test_tokens_by_keyboard(page, site_url):
    open_page(page, site_url, "tokens")
    tab_to(page, '[data-id="a"]')
    page.keyboard.type("teacher")
    tab_to(page, '[data-id="b"]')
    page.keyboard.type("MiniLLM")
    tab_to(page, '[data-id="answer"]')
    page.keyboard.press("Home")  # the reference
    tab_to(page, '[role="tab"]')
    page.keyboard.press("Home")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    settle(page)
    assert page.input_value('[data-id="a"]') == "teacher"
    assert page.input_value('[data-id="b"]') == "minillm"
    answer = STUDY["questions"][int(page.input_value('[data-id="question"]'))]["answers"][0]
    assert page.locator('[role="tab"] .word').all_inner_texts() == words(answer)
    focused = '[role="tab"][aria-selected="true"]'
    assert page.evaluate("s => document.activeElement.matches(s)", focused)
    position = answer["positions"][3]
    told = table(page, "distribution-rows")[words(answer)[3]]
    due = [distribution(position, side)[0] for side in ("teacher", "minillm", "grammar")]
    assert [float(cell.replace("−", "-")) for cell in told] == pytest.approx(due, rel=0.05)
    for side, place in (("teacher", 1), ("minillm", 2)):
        total = sum(math.log(distribution(p, side)[0]) for p in answer["positions"])
        assert nats(total) in shown(page, "summary")
        cells = table(page, "sum-rows")
        assert cells["log-probability of the answer"][place - 1] == nats(total)
        forward = sum(p["forward_kl"][MODELS.index(side)] for p in answer["positions"])
        assert cells["forward KL from the teacher, summed"][place - 1] == nats(forward)


def test_each_answer_as_the_file_has_it(page, site_url):
    for number, question in enumerate(STUDY["questions"][:4]):
        for place, answer in enumerate(question["answers"]):
            open_page(page, site_url, "tokens", f"#question={number}&answer={place}")
            assert page.locator('[role="tab"] .word').all_inner_texts() == words(answer)
            leans = page.locator('[role="tab"]').evaluate_all(
                "tabs => tabs.map(t => t.dataset.lean)"
            )
            ratios = [
                math.log(distribution(p, "token_fkl")[0] / distribution(p, "token_rkl")[0])
                for p in answer["positions"]
            ]
            assert leans == ["even" if abs(r) < 0.1 else "a" if r > 0 else "b" for r in ratios]
            widest = int(np.argmax(np.abs(ratios)))
            assert page.get_attribute(f"#token-{widest}", "aria-selected") == "true"
            leaves = [
                i for i, p in enumerate(answer["positions"]) if p["grammar"] and not p["grammar"][0]
            ]
            marked = page.locator(".token.leaves").evaluate_all("tabs => tabs.map(t => t.id)")
            assert marked == [f"token-{i}" for i in leaves[:1]]
            says = shown(page, "summary")
            assert ("leaves the grammar" in says) == (answer["grammar_log_prob"] is None)
            assert all(name in says for name in answer["invented"])


def test_the_distributions_add_up_to_one(page, site_url):
    open_page(page, site_url, "tokens")
    url = f"{site_url}/_static/explore/tokens_engine.js"
    totals = page.evaluate(
        """async url => {
             const engine = await import(url);
             const study = await (await fetch(new URL("../data/token_pages.json", url))).json();
             const totals = [];
             for (const { answers } of study.questions) for (const answer of answers)
               for (const position of answer.positions)
                 for (const [a, b] of [["grammar", "sft"], ["teacher", "minillm"]]) {
                   const { rows, others } = engine.distributions(study, position, a, b);
                   for (const key of ["a", "b", "truth"])
                     if (others[key] !== null)
                       totals.push(rows.reduce((sum, row) => sum + row[key], others[key]));
                 }
             return totals;
           }""",
        url,
    )
    assert len(totals) > 1000
    assert totals == pytest.approx([1] * len(totals), abs=2e-3)


def test_a_side_may_stand_against_itself(page, site_url):
    open_page(page, site_url, "tokens", "#a=teacher&b=teacher&question=0&answer=0")
    leans = page.locator('[role="tab"]').evaluate_all("tabs => tabs.map(t => t.dataset.lean)")
    assert set(leans) == {"even"}
    assert shown(page, "summary").startswith("A and B are the same, so nothing leans.")
    assert "There are 12 questions" in page.inner_text("article")
    assert len(STUDY["questions"]) == 12


def test_how_far_the_grammar_speaks(page, site_url):
    """It says nothing more once an answer has left it, and the label says so."""
    for number, question in enumerate(STUDY["questions"][:6]):
        for place, answer in enumerate(question["answers"]):
            open_page(page, site_url, "tokens", f"#question={number}&answer={place}")
            speaks = [position["grammar"] is not None for position in answer["positions"]]
            label = list(table(page, "sum-rows"))[3]
            due = "forward KL from the grammar, summed"
            if not all(speaks):
                first = speaks.index(False)
                assert not any(speaks[first:])
                due += f" over the first {first} of {len(speaks)} tokens: "
                due += "then the answer has left it"
            assert label == due


def test_the_grammar_as_a_side(page, site_url):
    number, place = next(
        (i, j)
        for i, question in enumerate(STUDY["questions"])
        for j, answer in enumerate(question["answers"])
        if answer["grammar_log_prob"] is None
    )
    view = f"#a=grammar&b=teacher&question={number}&answer={place}"
    open_page(page, site_url, "tokens", view)
    assert table(page, "sum-rows")["log-probability of the answer"][0] == "−∞"
    page.locator('[role="tab"] >> nth=-1').click()
    assert page.is_visible('[data-id="silent"]')
    assert {row[0] for row in table(page, "distribution-rows").values()} == {"–"}


def test_token_view_is_in_the_address(page, site_url):
    open_page(page, site_url, "tokens", "#a=seq_fkl&b=start&question=3&answer=0&token=2")
    told = shown(page, "summary")
    page.click('[data-id="swap"]')
    settle(page)
    assert "a=start&b=seq_fkl&question=3&answer=0" in page.url
    assert page.input_value('[data-id="a"]') == "start"
    page.click('[data-id="swap"]')
    page.click("#token-2")
    settle(page)
    assert shown(page, "summary") == told
    page.click('[data-id="reset"]')
    settle(page)
    assert page.input_value('[data-id="a"]') == "token_fkl"


def test_what_the_page_on_tokens_says(page, site_url):
    """Each link under "What to look for" opens the answer that its sentence is about."""
    open_page(page, site_url, "tokens")
    links = page.locator('#what-to-look-for li a[href^="#a="]')
    expected = [
        ("token_fkl", "Sure, Mia can have"),
        ("grammar", "Sure, Emma leaves the hotel at one."),
        ("grammar", "Sorry, no driver is free for Emma at one."),
        ("grammar", "Sorry, only the pool"),
    ]
    assert links.count() == len(expected)
    for i, (side, beginning) in enumerate(expected):
        links.nth(i).click()
        settle(page)
        assert page.input_value('[data-id="a"]') == side
        text = " ".join(page.locator('[role="tab"] .word').all_inner_texts())
        assert text.replace(" ,", ",").replace(" .", ".").startswith(beginning)
        # In view, but for a fraction, once the theme's smooth scrolling has ended.
        page.wait_for_function("document.querySelector('#tokens').getBoundingClientRect().y > -2")
        assert ("leaves the grammar" in shown(page, "summary")) == (i in (0, 3))
        if i == 1:
            told = table(page, "sum-rows")["log-probability of the answer"]
            assert told == ["−3.92", "−14.02"]
            assert "−3.92 nats by the grammar and −14.02" in page.inner_text("#what-to-look-for")
        if i == 2:
            grammar, student = table(page, "sum-rows")["log-probability of the answer"]
            assert float(student.replace("−", "-")) > float(grammar.replace("−", "-")) > -3
    hugo = table(page, "distribution-rows")["Hugo"]
    assert 11 < float(hugo[0]) / float(hugo[1]) < 12
