"""The page on ranks: by keyboard alone, and with the numbers of the audit's files."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.explorable_page import open_page, settle, shown, tab_to

RESULTS = Path(__file__).parents[2] / "assets" / "results"
AUDIT, CURVES = (
    json.loads((RESULTS / f"{name}.json").read_text()) for name in ("rank_audit", "rank_curves")
)
LETTERS = {"forward": "F", "reverse": "R", "arrived": "✓", "not separated": "="}


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


def chosen(page, name: str) -> str:
    """The value of the one radio button that is on."""
    return page.get_attribute(f'[data-id="{name}"] input:checked', "value")


def test_sliders_by_keyboard(page, site_url):
    open_page(page, site_url, "ranks")
    tab_to(page, '[data-id="rank"]')
    page.keyboard.press("Home")  # rank 2
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")  # learning rate 0.01
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")  # 1e-10
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
    assert verdict == "not separated"
    assert "the two are not separated" in told
    assert (
        f"weight distance {digits(means[0])} under forward KL, {digits(means[1])} under reverse "
        f"KL, difference {digits(difference, '+')} [{digits(low, '+')}, {digits(high, '+')}] "
        f"over {len(AUDIT['axes']['seed'])} seeds"
    ) in told
    assert page.get_attribute('[data-id="rate"]', "aria-valuetext") == shown(page, "rate-now")
    assert [chosen(page, name) for name in ("epsilon", "sharpness")] == ["1", "1"]
    seeds = CURVES["settings"]["seeds"]
    assert shown(page, "weights-title") == f"Weight distance to the teacher, {seeds} seeds"
    assert f"first {seeds} of the verdict's {len(AUDIT['axes']['seed'])}" in shown(page, "seeds")
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
    assert [page.input_value(f'[data-id="{s}"]') for s in ("rank", "rate")] == ["5", "1"]
    assert chosen(page, "epsilon") == "1"
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
