"""The slides and the figures to embed, as a browser shows and prints them."""

import re
from pathlib import Path

from book.slides import print_pdf, read_slides

ROOT = Path(__file__).parents[2]
IFRAME = re.compile(r'<iframe src="kd-lab/([^"]+)" title="([^"]+)"[^>]*></iframe>')
OVERFULL = """[...document.querySelectorAll(".slide")].flatMap((slide, i) =>
    slide.scrollHeight > slide.clientHeight + 1 || slide.scrollWidth > slide.clientWidth + 1 ||
    [...slide.querySelectorAll("pre, .math-block, .table-wrapper")]
        .some(box => box.scrollWidth > box.clientWidth + 1) ? [i + 1] : [])"""
# What a page of this site has beside its figure.
BESIDE = "article > section > section:not(.explorable)"
TOP = """() => [...document.querySelectorAll(".slide")]
    .findIndex(slide => Math.abs(slide.getBoundingClientRect().top) < 2)"""


def test_each_slide_is_one_printed_page(built_site, tmp_path, browser):
    print_pdf(built_site / "teach" / "slides.html", tmp_path / "slides.pdf")
    pages = re.findall(rb"/Type /Page\b(?!s)", (tmp_path / "slides.pdf").read_bytes())
    assert len(pages) == len(read_slides())


def test_nothing_is_cut_off_on_paper(site_url, new_page):
    with new_page(viewport={"width": 1280, "height": 720}) as page:
        page.emulate_media(media="print")
        page.goto(f"{site_url}/teach/slides.html")
        assert page.locator(".slide").count() == len(read_slides())
        assert page.evaluate(OVERFULL) == []
        assert not page.locator(".notes").first.is_visible()


def test_each_slide_fits_on_a_screen_and_pictures_are_there(site_url, new_page):
    with new_page(viewport={"width": 1280, "height": 720}) as page:
        page.goto(f"{site_url}/teach/slides.html")
        heights = page.evaluate(
            '[...document.querySelectorAll(".slide")].map(slide => slide.offsetHeight)'
        )
        assert max(heights) <= 721
        assert page.evaluate(
            "[...document.images].every(image => image.complete && image.naturalWidth)"
        )


def test_code_is_as_dark_as_other_text_in_any_scheme(site_url, new_page):
    """A slide is white paper, whatever the system's colours are."""
    colours = []
    for scheme in ("light", "dark"):
        with new_page(viewport={"width": 1280, "height": 720}, color_scheme=scheme) as page:
            page.goto(f"{site_url}/teach/slides.html")
            code = page.locator("pre, pre span")
            colours.append(code.evaluate_all("all => all.map(one => getComputedStyle(one).color)"))
    assert colours[0] == colours[1] != []


def test_keys_turn_the_page_and_show_the_notes(site_url, new_page):
    with new_page(viewport={"width": 1280, "height": 720}) as page:
        page.goto(f"{site_url}/teach/slides.html")
        for key, expected in (
            ("ArrowRight", 1), ("PageDown", 2), ("ArrowLeft", 1), ("PageUp", 0), ("ArrowLeft", 0),
            ("End", len(read_slides()) - 1), ("Home", 0),
        ):  # fmt: skip
            page.keyboard.press(key)
            page.wait_for_timeout(100)
            assert page.evaluate(TOP) == expected, key
        notes = page.locator(".notes p").first
        assert not notes.is_visible()
        page.keyboard.press("n")
        assert notes.is_visible()
        page.keyboard.press("n")
        assert not notes.is_visible()


def test_every_explorable_can_be_embedded(site_url, new_page, built_site):
    lines = IFRAME.findall((ROOT / "site" / "teach.md").read_text(encoding="utf-8"))
    pages = {path.stem for path in (ROOT / "site" / "explore").glob("*.md")} - {"index"}
    assert {Path(address).stem for address, _ in lines} == pages
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").split()[:2] == ["Apache", "License"]
    for address, title in lines:
        assert title.endswith("(KD Lab, Apache-2.0)")
        with new_page(viewport={"width": 800, "height": 950}) as page:
            page.goto(f"{site_url}/{address}")
            assert page.locator(BESIDE).first.is_visible()
            page.set_content(
                f'<base href="{site_url}/"><link rel="icon" href="data:,">'
                f'<iframe src="{address}" width="780" height="900">'
            )
            frame = page.frame_locator("iframe")
            frame.locator("html.framed .explorable").wait_for()
            assert frame.locator("h1").is_visible()
            height = frame.locator(".explorable").evaluate("figure => figure.offsetHeight")
            assert height > 300  # its script has run
            assert not frame.locator(BESIDE).first.is_visible()
            assert not frame.locator(".mobile-header").is_visible()
