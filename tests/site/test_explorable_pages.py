"""The explorables together: on a phone, in both schemes, linked to, and without JavaScript."""

import numpy as np
import pytest

from tests.helpers.explorable_page import open_page, settle

PAGES = ("ranks", "prefixes", "tokens", "losses")


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


@pytest.mark.parametrize("name", [*PAGES, "gaussians"])
def test_a_copied_link_opens_the_same_view(new_page, site_url, name):
    with new_page(permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto(f"{site_url}/site/explore/{name}.html")
        page.locator("#main-content, article").locator("select").first.press("End")
        page.click(".copy-link")
        page.wait_for_selector(".copy-link:has-text('Link copied')")
        link = page.evaluate("navigator.clipboard.readText()")
        assert link == page.url
        assert "=" in link.partition("#")[2]
        chosen = page.locator("article select").first.input_value()
        page.goto("about:blank")
        page.goto(link)
        page.wait_for_function(
            "value => document.querySelector('article select').value === value", arg=chosen
        )


@pytest.mark.parametrize(
    ("name", "view", "other", "control"),
    [
        ("ranks", "#distance=probability_distance", "#rank=0", "distance"),
        ("prefixes", "#divergence=reverse_kl", "#share=1", "divergence"),
        ("tokens", "#a=teacher", "#a=sft", "a"),
        ("losses", "#loss=k1_loss", "#loss=k2_loss", "loss"),
    ],
)
def test_back_and_headings_leave_the_view_in_peace(page, site_url, name, view, other, control):
    open_page(page, site_url, name, view)
    value = page.input_value(f'[data-id="{control}"]')
    page.evaluate("hash => location.hash = hash", other)
    settle(page)
    page.go_back()
    settle(page)
    assert page.input_value(f'[data-id="{control}"]') == value == view.partition("=")[2]
    page.evaluate("location.hash = '#what-to-look-for'")
    settle(page)
    assert page.input_value(f'[data-id="{control}"]') == value


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
