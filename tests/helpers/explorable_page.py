"""How tests open an explorable's page, read it and move in it."""

import pytest


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
