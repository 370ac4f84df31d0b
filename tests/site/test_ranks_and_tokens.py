"""The pages on ranks and on tokens: by keyboard alone, on a phone, and with the files' numbers."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

RESULTS = Path(__file__).parents[2] / "assets" / "results"
AUDIT, CURVES, STUDY = (
    json.loads((RESULTS / f"{name}.json").read_text())
    for name in ("rank_audit", "rank_curves", "toy_tokens")
)
MODELS = [model["name"] for model in STUDY["models"]]
LETTERS = {"forward": "F", "reverse": "R", "arrived": "✓", "not separated": "="}
PAGES = ("ranks", "tokens")


def open_page(page, site_url: str, name: str, view: str = "") -> None:
    """Opens an explorable and waits until its numbers are there."""
    page.goto("about:blank")  # a change of the hash alone would load nothing
    page.goto(f"{site_url}/site/explore/{name}.html{view}")
    page.wait_for_selector(f"#{name}.ready")
    settle(page)


def settle(page) -> None:
    """Until the polite summary and the address have followed, 0.3 s behind the figures."""
    # A timer of the page's own: however slow the machine, it comes after theirs.
    page.evaluate("() => new Promise(done => setTimeout(done, 350))")


def shown(page, name: str) -> str:
    return page.inner_text(f'[data-id="{name}"]')


def tab_to(page, inside: str) -> None:
    """Presses Tab until something that ``inside`` selects has the focus."""
    for _ in range(150):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", inside):
            return
    pytest.fail(f"Tab never reaches {inside}")


# ---- The rank study


def rank_cell(epsilon: bool, rate: int, sharpness: int, rank: int, *, distance: str, step: int):
    """What the audit says of one setting: verdict, both means, and difference, low, high."""
    where = (AUDIT["axes"]["distance"].index(distance), step, sharpness, rank, rate)
    compared = AUDIT["forward_against_reverse"]["epsilon" if epsilon else "exact"]
    names = AUDIT["axes"]["divergence"]
    suffix = "_epsilon" if epsilon else ""
    values = np.array(AUDIT["values"])[where]  # [divergence, seed]
    means = [values[names.index(name + suffix)].mean() for name in ("forward_kl", "reverse_kl")]
    numbers = [np.array(compared[key])[where] for key in ("mean_difference", "low", "high")]
    return str(np.array(compared["verdict"])[where]), means, numbers


def digits(value: float, sign: str = "") -> str:
    """Three significant digits as the page writes them."""
    return f"{float(f'{value:.3g}'):{sign}g}".replace("-", "−")


def test_sliders_by_keyboard(page, site_url):
    open_page(page, site_url, "ranks")
    tab_to(page, '[data-id="rank"]')
    page.keyboard.press("Home")  # rank 2
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")  # learning rate 0.01
    page.keyboard.press("Tab")
    page.keyboard.press("End")  # 1e-10
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")  # variance 1
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")  # after 1,000 steps
    settle(page)
    verdict, means, (difference, low, high) = rank_cell(
        True, 1, 1, 0, distance="weight_distance", step=1
    )
    told = shown(page, "summary")
    assert "Rank 2, learning rate 0.01, 1e-10 inside the logarithm" in told
    assert "logits of variance 1. After 1,000 steps" in told
    assert verdict == "reverse"
    assert "reverse KL is nearer to the teacher" in told
    assert (
        f"weight distance {digits(means[0])} under forward KL, {digits(means[1])} under reverse "
        f"KL, difference {digits(difference, '+')} [{digits(low, '+')}, {digits(high, '+')}] "
        f"over {len(AUDIT['axes']['seed'])} seeds"
    ) in told
    assert page.get_attribute('[data-id="epsilon"]', "aria-valuetext") == shown(page, "epsilon-now")
    assert page.get_attribute('.cell[aria-selected="true"]', "aria-label").startswith("Rank 2,")


def test_map_by_keyboard(page, site_url):
    open_page(page, site_url, "ranks")
    tab_to(page, ".cell")
    current = '.cell[aria-selected="true"]'
    assert page.get_attribute(current, "aria-label").startswith("Rank 64, learning rate 0.1, exact")
    page.keyboard.press("ArrowRight")  # over the edge of its panel
    assert "Rank 2, learning rate 0.1, exact logarithm, teacher with logits" in page.get_attribute(
        current, "aria-label"
    )
    page.keyboard.press("ArrowDown")
    assert "0.001, 1e-10" in page.get_attribute(current, "aria-label")
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")
    settle(page)
    assert "Rank 64, learning rate 0.01, 1e-10" in shown(page, "summary")
    assert [page.input_value(f'[data-id="{s}"]') for s in ("rank", "rate", "epsilon")] == [
        "5", "1", "1",
    ]  # fmt: skip
    assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    assert page.locator('.cell[tabindex="0"]').count() == 1


@pytest.mark.parametrize("distance", ["weight_distance", "probability_distance"])
@pytest.mark.parametrize("step", [0, 2])
def test_map_is_the_audits(page, site_url, distance, step):
    open_page(page, site_url, "ranks", f"#distance={distance}&step={step}")
    panels = page.evaluate(
        """() => [...document.querySelectorAll('#ranks [role=rowgroup]')].map(panel =>
               [...panel.querySelectorAll('.cell')].map(cell => cell.textContent))"""
    )
    verdicts = []
    for panel, (epsilon, sharpness) in zip(
        panels, itertools.product((False, True), range(2)), strict=True
    ):
        due = [
            rank_cell(epsilon, rate, sharpness, rank, distance=distance, step=step)[0]
            for rate, rank in itertools.product(range(3), range(6))
        ]
        assert panel == [LETTERS[verdict] for verdict in due]
        verdicts += due
    tally = shown(page, "tally")
    assert f"forward KL nearer {verdicts.count('forward')}, " in tally
    assert f"not separated {verdicts.count('not separated')}, " in tally


def test_curves_are_the_files(page, site_url):
    open_page(page, site_url, "ranks", "#rank=3&rate=1&sharpness=1&between=true")
    names = CURVES["axes"]["divergence"]
    where = (CURVES["axes"]["distance"].index("weight_distance"), 1, 3, 1)
    mean = np.array(CURVES["mean"])[where]  # [divergence, step]
    described = page.text_content('[data-id="weights"] desc')
    for name, label in (("forward_kl", "forward KL"), ("adaptive_kl", "adaptive KL")):
        first, *_, last = mean[names.index(name)]
        assert f"{label}: {digits(first)}, {digits(last)}" in described

    # What is drawn: each line goes through one point a step, and lies where the axis says.
    lines = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('[data-id=weights] path.line')]
               .map(path => [path.dataset.name, path.getAttribute('d')]))"""
    )
    drawn = {
        name: np.array([point.split() for point in d[1:].split("L")], float)[:, 1]
        for name, d in lines.items()
        if name in names
    }
    assert set(drawn) == set(names)
    logs = np.log(mean)
    a, b = drawn["forward_kl"], logs[names.index("forward_kl")]
    slope = (a[-1] - a[0]) / (b[-1] - b[0])
    for name, heights in drawn.items():
        due = a[0] + slope * (logs[names.index(name)] - b[0])
        np.testing.assert_allclose(heights, due, atol=0.15)  # pixels, written with one decimal


def test_rank_view_is_in_the_address(page, site_url):
    open_page(page, site_url, "ranks")
    page.click(".cell >> nth=7")
    settle(page)
    address, told = page.url, shown(page, "summary")
    open_page(page, site_url, "ranks", "#" + address.partition("#")[2])
    assert shown(page, "summary") == told
    assert told.startswith("Rank 4, learning rate 0.01, exact logarithm")
    page.click('[data-id="reset"]')
    settle(page)
    assert shown(page, "summary").startswith("Rank 64, learning rate 0.1")


def test_what_the_page_on_ranks_says():
    """The sentences under "What to look for", each against the file."""
    at = {"distance": "weight_distance"}
    ranks, rates, last = range(6), range(3), 2
    assert rank_cell(False, 2, 0, 5, step=last, **at)[0] == "not separated"
    verdict, (forward, reverse), _ = rank_cell(True, 2, 0, 5, step=last, **at)
    assert verdict == "forward"
    assert reverse > 1.5 * forward
    assert {rank_cell(False, 0, 0, rank, step=last, **at)[0] for rank in ranks} == {"reverse"}
    assert {rank_cell(False, 2, 0, rank, step=last, **at)[0] for rank in ranks[:5]} == {"forward"}
    early = [
        rank_cell(False, *cell, step=0, **at)[0] for cell in itertools.product(rates, [0], ranks)
    ]
    assert set(early) == {"reverse"}
    _, (_, middle), _ = rank_cell(False, 2, 0, 0, step=1, **at)
    _, (_, end), _ = rank_cell(False, 2, 0, 0, step=last, **at)
    assert end > 3 * middle


# ---- Tokens


def law(position: dict, side: str) -> list[float] | None:
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
    told = table(page, "law-rows")[words(answer)[3]]
    due = [law(position, side)[0] for side in ("teacher", "minillm", "grammar")]
    assert [float(cell.replace("−", "-")) for cell in told] == pytest.approx(due, rel=0.05)
    for side, place in (("teacher", 1), ("minillm", 2)):
        total = sum(math.log(law(p, side)[0]) for p in answer["positions"])
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
                math.log(law(p, "token_fkl")[0] / law(p, "token_rkl")[0])
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


def test_the_laws_add_up_to_one(page, site_url):
    open_page(page, site_url, "tokens")
    url = f"{site_url}/_static/explore/tokens_engine.js"
    totals = page.evaluate(
        """async url => {
             const engine = await import(url);
             const study = await (await fetch(new URL("../data/toy_tokens.json", url))).json();
             const totals = [];
             for (const { answers } of study.questions) for (const answer of answers)
               for (const position of answer.positions)
                 for (const [a, b] of [["grammar", "sft"], ["teacher", "minillm"]]) {
                   const { rows, others } = engine.laws(study, position, a, b);
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
    assert {row[0] for row in table(page, "law-rows").values()} == {"–"}


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
        ("token_fkl", "Of course, Nina has a taxi"),
        ("grammar", "The bike at four is booked for Hugo."),
        ("grammar", "The bike at four is ready for Hugo."),
        ("grammar", "Of course, we will call"),
    ]
    assert links.count() == len(expected)
    for i, (side, beginning) in enumerate(expected):
        links.nth(i).click()
        settle(page)
        assert page.input_value('[data-id="a"]') == side
        text = " ".join(page.locator('[role="tab"] .word').all_inner_texts())
        assert text.replace(" ,", ",").replace(" .", ".").startswith(beginning)
        assert page.locator("#tokens").bounding_box()["y"] > -2  # in view, but for a fraction
        assert ("leaves the grammar" in shown(page, "summary")) == (i != 1)
        if i == 1:
            told = table(page, "sum-rows")["log-probability of the answer"]
            assert told == ["−3.68", "−13.72"]
            assert "−3.68 nats by the grammar and −13.72" in page.inner_text("#what-to-look-for")
    we = table(page, "law-rows")["we"]
    assert float(we[0]) / float(we[1]) == pytest.approx(6, abs=0.3)


# ---- Both


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(new_page, site_url, name, scheme):
    with new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme) as page:
        open_page(page, site_url, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        cut = page.locator(
            f"#{name} :is(button, select, input, .cell, .token, td, th)"
        ).evaluate_all(
            """all => all.filter(e => { const r = e.getBoundingClientRect();
                 return r.width && (r.left < 0 || r.right > 360); }).map(e => e.outerHTML)"""
        )
        assert cut == []
        # Ink on paper, in this scheme, at a ratio that can be read.
        assert contrast(page, name) > 7


def contrast(page, name: str) -> float:
    """WCAG's contrast of the explorable's text and paper."""
    colours = page.evaluate(
        """name => { const style = getComputedStyle(document.getElementById(name));
             return ["--ex-ink", "--ex-paper"].map(c => style.getPropertyValue(c).trim()); }""",
        name,
    )

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", PAGES)
def test_without_javascript_there_is_a_picture(new_page, site_url, name):
    with new_page(java_script_enabled=False) as page:
        page.goto(f"{site_url}/site/explore/{name}.html")
        assert page.is_visible("noscript img")
