"""The whole site, as a machine reads it and as a browser shows it.

The files are read once for what files can tell: links, anchors, alt texts, sizes. Chromium then
opens every page at phone width in the dark and at desktop width in the light, and looks for errors
and for pages that are wider than the screen; its screenshots are in pytest's temporary folder.
"""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

import pytest

MEGABYTE = 1_000_000
HERE = "http://site.invalid"
PHONE = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
DESKTOP = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}
PICTURED = ("index.html", "CLAIMS.html", "notebooks/01_two_divergences.html", "README.html")
LOADED_BY = {"img": "src", "script": "src", "link": "href", "source": "srcset", "iframe": "src"}


class Page(HTMLParser):
    """What a page says of itself, out of its tags."""

    def __init__(self, path: Path):
        super().__init__()
        self.language = ""
        self.anchors = {""}
        self.links: list[str] = []
        self.loads: list[str] = []
        self.silent_pictures: list[str] = []
        self.unnamed: list[str] = []  # drawings without words
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "html":
            self.language = attributes.get("lang", "")
        self.anchors.add(attributes.get("id", ""))
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        if LOADED_BY.get(tag) in attributes and attributes.get("rel") not in ("next", "prev"):
            self.loads.append(attributes[LOADED_BY[tag]])
        if tag == "img" and not attributes.get("alt", "").strip():
            self.silent_pictures.append(attributes["src"])
        if attributes.get("role") == "img" and not (
            attributes.get("aria-label") or attributes.get("aria-labelledby")
        ):
            self.unnamed.append(tag)


class Site(NamedTuple):
    folder: Path
    pages: dict[str, Page]  # by address from the site's root

    def missing(self, page: str, link: str) -> str:
        """What is wrong with a link, or nothing."""
        parts = urlsplit(urljoin(f"{HERE}/{page}", link))
        if not parts.geturl().startswith(f"{HERE}/"):  # of others only the form is checked
            good = parts.scheme in ("http", "https") and "." in parts.netloc
            return "" if good else f"{page}: {link} is no address"
        target = unquote(parts.path).lstrip("/")
        if not (self.folder / target).is_file():
            return f"{page}: {link} leads nowhere"
        anchor = unquote(parts.fragment)
        # What an explorable was set to, which its script reads.
        is_state = "=" in anchor and target.startswith("site/explore/")
        if is_state or anchor.startswith(":~:") or target not in self.pages:
            return ""
        known = self.pages[target].anchors
        return "" if anchor in known else f"{page}: {link}, no such place on that page"


@pytest.fixture(scope="session")
def site(built_site) -> Site:
    paths = [path for path in built_site.rglob("*.html") if "_static" not in path.parts]
    return Site(
        built_site, {path.relative_to(built_site).as_posix(): Page(path) for path in sorted(paths)}
    )


def test_everything_is_there(site):
    pages = set(site.pages)
    assert {"index.html", "README.html", "CLAIMS.html", "site/explore/index.html"} <= pages
    repository = Path(__file__).parents[2]
    for notebook in (repository / "notebooks").glob("*.ipynb"):
        page = f"notebooks/{notebook.stem}.html"
        assert any(link.endswith(f"/{notebook.name}") for link in site.pages[page].links), page


def test_a_claim_has_one_mark_wherever_it_stands(built_site):
    front, claims = (
        re.findall(r'<span class="mark ([a-z-]+)"', (built_site / page).read_text(encoding="utf-8"))
        for page in ("index.html", "CLAIMS.html")
    )
    marks = front[:-4]  # the last are the key's
    assert len(marks) > 30
    assert len(set(marks)) == 4
    assert claims == [*marks, *marks]  # in the table, and where each section begins


def test_no_link_is_dead(site):
    wrong = {
        site.missing(name, link) for name, page in site.pages.items() for link in page.links
    } - {""}
    assert not sorted(wrong)


def test_nothing_is_loaded_from_elsewhere_or_missing(site):
    wrong = []
    for name, page in site.pages.items():
        for address in page.loads:
            if urlsplit(address).scheme in ("http", "https") or address.startswith("//"):
                wrong.append(f"{name}: {address} is loaded from elsewhere")
            elif not address.startswith("data:"):
                wrong.append(site.missing(name, address))
    assert not [line for line in wrong if line]


def test_every_page_can_be_heard(site):
    for name, page in site.pages.items():
        assert page.language == "en", name
        assert page.links[0] == "#furo-main-content", f"{name}: the skip link comes first"
        assert not page.silent_pictures, f"{name}: pictures without alt text"
        assert not page.unnamed, f"{name}: drawings without a label"


def test_the_whole_site_is_small(site):
    size = sum(path.stat().st_size for path in site.folder.rglob("*") if path.is_file())
    assert size < 15 * MEGABYTE


@pytest.mark.slow
@pytest.mark.parametrize("options", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_every_page_opens_without_error_and_fits(site, site_url, new_page, options, tmp_path):
    width = options["viewport"]["width"]
    too_wide, elsewhere = [], []
    with new_page(**options) as page:
        page.on(
            "request",
            lambda request: (
                request.url.startswith((site_url, "data:", "blob:"))
                or elsewhere.append(request.url)
            ),
        )
        for name in site.pages:
            page.goto(f"{site_url}/{name}")
            if page.evaluate("document.documentElement.scrollWidth") > width:
                too_wide.append(f"{name}: {page.evaluate(WIDEST)}")
            if name in PICTURED:
                page.screenshot(path=tmp_path / f"{Path(name).stem}.png")
    assert not too_wide
    assert not elsewhere


WIDEST = """[...document.querySelectorAll("article *")]
    .filter(element => element.getBoundingClientRect().right > innerWidth)
    .slice(0, 3).map(element => element.outerHTML.slice(0, 120))"""


def test_the_front_page_is_light_and_quick(site_url, new_page):
    seconds = []
    for _ in range(3):  # the machine may be busy with something else: the best of three
        with new_page(**DESKTOP) as page:
            bodies = []
            page.on("requestfinished", lambda request, bodies=bodies: bodies.append(request))
            page.goto(f"{site_url}/index.html", wait_until="networkidle")
            weight = sum(request.sizes()["responseBodySize"] for request in bodies)
            seconds.append(
                page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
            )
    assert len(bodies) > 3  # the page, its styles, its scripts
    assert weight < MEGABYTE
    assert min(seconds) < 1


def test_the_dark_and_the_light_can_be_read(site_url, new_page):
    for scheme in ("dark", "light"):
        with new_page(color_scheme=scheme) as page:
            page.goto(f"{site_url}/index.html")
            for selector in ("article p", "article p a", ".caption", "a.button", ".verdicts .mark"):
                assert page.evaluate(CONTRAST, selector) >= 4.5, f"{selector} in the {scheme}"


# WCAG's contrast of an element's text with the first background behind it.
CONTRAST = """selector => {
    const channels = colour => colour.match(/[\\d.]+/g).map(Number);
    const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) =>
        [r, g, b].map(c => linear(c / 255)).reduce((sum, c, i) =>
            sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    let element = document.querySelector(selector), behind = element;
    while (channels(getComputedStyle(behind).backgroundColor)[3] === 0)
        behind = behind.parentElement;
    const pair = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor]
        .map(colour => luminance(channels(colour))).sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
}"""


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_pictures_move_only_for_readers_who_let_them(site_url, new_page, motion):
    with new_page(reduced_motion=motion) as page:
        page.goto(f"{site_url}/index.html")
        shown = page.locator(".front-picture .moving").first.is_visible()
        page.goto(f"{site_url}/README.html")
        picture = page.locator("picture img").first
        picture.scroll_into_view_if_needed()
        source = picture.evaluate("async image => (await image.decode(), image.currentSrc)")
    assert shown == (motion == "no-preference")
    assert source.endswith("-still.webp") == (motion == "reduce")


def test_a_page_says_what_it_is_about(site):
    made_by_sphinx = {"genindex.html", "py-modindex.html", "search.html"}
    for name in site.pages.keys() - made_by_sphinx:
        html = (site.folder / name).read_text(encoding="utf-8")
        described = re.findall(r'<meta (?:name|property)="([^"]+)" content="([^"]+)">', html)
        tags = dict(described)
        assert 20 < len(tags["description"]) <= 200, name
        assert tags["og:description"] == tags["description"]
        assert tags["og:title"] in unescape(html).replace("\n", " "), name


def test_a_wrong_address_finds_back(site, site_url, new_page):
    html = (site.folder / "404.html").read_text(encoding="utf-8")
    with new_page() as page:
        page.route("**/gone/**", lambda route: route.fulfill(body=html, content_type="text/html"))
        for address in ("notebooks/gone/for/ever.html", "site/explore/gone/"):
            page.goto(f"{site_url}/{address}")
            page.get_by_role("link", name="The front page").click()
            assert page.url == f"{site_url}/index.html"


def test_every_claim_has_its_name_under_a_finger(new_page, site_url):
    with new_page(viewport={"width": 390, "height": 844}, has_touch=True) as page:
        page.goto(f"{site_url}/index.html")
        keys = page.locator(".verdict-key summary")
        names = page.locator(".verdict-key li")
        assert names.count() == page.locator("ul.verdicts li").count()
        assert not names.first.is_visible()
        for place in range(keys.count()):
            keys.nth(place).tap()
        assert all(name.is_visible() for name in names.all())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_mark_shows_its_claim(page, site_url):
    page.goto(f"{site_url}/index.html")
    mark = page.locator("ul.verdicts a").nth(2)
    claim = mark.locator(".only-heard")
    assert claim.bounding_box()["width"] <= 1
    mark.hover()
    assert claim.bounding_box()["width"] > 300
    last = page.locator("ul.verdicts li").last.bounding_box()
    assert claim.bounding_box()["y"] >= last["y"] + last["height"]


def test_a_keyboard_reaches_the_text_past_the_navigation(page, site_url):
    page.goto(f"{site_url}/CLAIMS.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent.trim()") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.url.endswith("#furo-main-content")


def test_the_search_finds_a_function(page, site_url):
    page.goto(f"{site_url}/search.html?q=jensen_shannon")
    page.wait_for_selector("#search-results a[href*='api/divergences']")
