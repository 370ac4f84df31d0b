"""The pages on ranks, prefixes, tokens and losses: on a phone, in both schemes, and without JavaScript."""

import numpy as np
import pytest

from tests.helpers.explorable_page import open_page

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
