"""The page of the Gaussians: its stories, and its use by keyboard, mouse, touch and address."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch

from toy.mixture_fit import POST_TARGET, Trajectory, fit

SHOWN = ("forward_kl", "reverse_kl", "jensen_shannon", "adaptive_kl")


def open_gaussians(page: Any, site_url: str, view: str = "") -> None:
    page.goto(f"{site_url}/site/explore/gaussians.html{view}")
    page.wait_for_selector("#gaussians[data-ready]")


def card(page: Any, divergence: str) -> Any:
    return page.locator(f'.student[data-divergence="{divergence}"]')


def steps_shown(page: Any) -> int:
    return int(page.locator(".counter .value").inner_text())


def nats_shown(page: Any, divergence: str) -> float:
    return float(card(page, divergence).locator(".nats").inner_text().removesuffix(" nats"))


def run_to_the_end(
    page: Any, site_url: str, story: str, divergences: Iterable[str]
) -> dict[str, Trajectory]:
    """Plays a story to its end; the same starts by the toy engine, for as many steps."""
    open_gaussians(page, site_url)
    page.get_by_role("button", name=story, exact=True).click()
    page.get_by_role("button", name="To the end").click()
    page.wait_for_function(f"location.hash.includes('steps={steps_shown(page)}')")
    start = page.evaluate("new URLSearchParams(location.hash.slice(1)).get('start')")
    mu, sigma = ([float(v) for v in part.split(",")] for part in start.split(";"))
    steps = steps_shown(page)
    return {
        name: fit(POST_TARGET, mu, torch.tensor([sigma]), divergence=name, steps=steps + 1)
        for name in divergences
    }


@pytest.mark.parametrize(
    ("story", "endings"),
    [
        (
            "Figure 1",
            {
                "forward_kl": "settled broad over both modes",
                "reverse_kl": "settled on the right mode",
                "jensen_shannon": "settled broad over both modes",
                "adaptive_kl": "settled near the right mode, broader than it",
            },
        ),
        ("Figure 2", dict.fromkeys(SHOWN, "settled with one component on each mode")),
        ("A third resting place", {"reverse_kl": "settled broad over both modes"}),
        (
            "A saddle",
            {
                "forward_kl": "settled with one component on each mode",
                "reverse_kl": "settled with both components on the right mode",
            },
        ),
    ],
)
def test_the_stories_end_as_told(
    page: Any, site_url: str, story: str, endings: dict[str, str]
) -> None:
    fits = run_to_the_end(page, site_url, story, endings)
    for divergence, ending in endings.items():
        assert card(page, divergence).locator(".state").inner_text() == ending
    for divergence, trajectory in fits.items():
        if divergence == "adaptive_kl":  # rounding decides which point of a tie is in its head
            continue
        assert nats_shown(page, divergence) == pytest.approx(trajectory.kl[-1, 0].item(), abs=2e-3)
    heard = page.locator(".summary").inner_text()
    if story == "Figure 1":
        assert "Reverse KL has settled on the right mode, 0.693 nats." in heard
    elif story == "Figure 2":
        forward, reverse = (fits[name].steps_to(0.01)[0] for name in SHOWN[:2])
        assert forward is not None
        assert reverse is not None
        assert forward < reverse
    elif story == "A third resting place":
        assert "5.136 nats" in heard
        assert "σ 2.49" in card(page, "reverse_kl").inner_text()
    else:
        assert nats_shown(page, "reverse_kl") == pytest.approx(math.log(2), abs=1e-3)
        apart = (fits["forward_kl"].mu[:, 0, 0] - fits["forward_kl"].mu[:, 0, 1]).abs()
        assert apart[50:200].max() < 1.3  # against 6 in the end


def test_modes_that_merge_leave_one_stable_point(page: Any, site_url: str) -> None:
    open_gaussians(page, site_url, "#story=merge")
    page.wait_for_selector("#gaussians[data-landscape=ready]")
    portrait = card(page, "reverse_kl").locator(".portrait desc")
    assert "has 3 stable points" in portrait.text_content()
    page.get_by_role("button", name="To the end").click()
    page.wait_for_selector("#gaussians[data-landscape=ready]")
    assert "has 1 stable point:" in portrait.text_content()
    widths = [card(page, name).locator(".sigma").inner_text() for name in SHOWN]
    sigmas = [float(width.removeprefix("σ ")) for width in widths]
    assert max(sigmas) - min(sigmas) < 0.02


def test_by_keyboard_alone(page: Any, site_url: str) -> None:
    open_gaussians(page, site_url)
    handles = page.get_by_role("slider", name="Mean, ").or_(
        page.get_by_role("slider", name="Width, ")
    )
    assert handles.count() == 6

    mean = page.get_by_role("slider", name="Mean, the students' start")
    before = nats_shown(page, "forward_kl")
    mean.focus()
    page.keyboard.press("ArrowLeft")
    assert mean.get_attribute("aria-valuetext") == "μ 4.9"
    assert nats_shown(page, "forward_kl") < before
    page.keyboard.press("Home")
    assert mean.get_attribute("aria-valuenow") == "-6"
    width = page.get_by_role("slider", name="Width, first mode of the target")
    width.focus()
    page.keyboard.press("PageUp")
    assert width.get_attribute("aria-valuetext") == "σ 0.75"

    page.get_by_role("button", name="Step").focus()
    for _ in range(3):
        page.keyboard.press("Enter")
    assert steps_shown(page) == 3
    page.get_by_role("button", name="Play").focus()
    page.keyboard.press("Space")
    page.wait_for_function("Number(document.querySelector('.counter .value').textContent) > 5")
    page.keyboard.press("Space")
    steps = steps_shown(page)
    page.wait_for_timeout(200)
    assert steps_shown(page) == steps

    page.get_by_label("components").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("document.querySelectorAll('.handle').length === 8")
    page.get_by_role("button", name="Reset").focus()
    page.keyboard.press("Enter")
    assert handles.count() == 6
    assert steps_shown(page) == 0


def test_what_is_said_follows_the_students(page: Any, site_url: str) -> None:
    open_gaussians(page, site_url)
    page.get_by_role("button", name="Play").click()
    page.wait_for_function(  # seen twice a second, and not read aloud
        """() => { const said = document.querySelector(".summary");
             return said.getAttribute("aria-live") === "off"
                 && /^Step [1-9]/.test(said.textContent)
                 && /still moving/.test(said.textContent); }"""
    )
    page.get_by_role("button", name="Pause").click()
    steps = steps_shown(page)
    page.wait_for_function(
        """steps => { const said = document.querySelector(".summary");
             return said.getAttribute("aria-live") === "polite"
                 && said.textContent.startsWith(`Step ${steps}.`); }""",
        arg=steps,
    )


def test_a_story_that_was_changed_says_so(page: Any, site_url: str) -> None:
    open_gaussians(page, site_url)
    story = page.get_by_role("button", name="Figure 1", exact=True)
    told = page.locator(".says").inner_text()
    assert story.get_attribute("aria-pressed") == "true"
    page.get_by_role("slider", name="Mean, first mode of the target").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".says").inner_text().startswith("“Figure 1”, changed.")
    assert page.locator('.presets [aria-pressed="true"]').count() == 0
    page.get_by_role("button", name="Reset").click()
    assert page.locator(".says").inner_text() == told
    assert story.get_attribute("aria-pressed") == "true"
    page.wait_for_function("location.hash.includes('target=-3,3')")  # it follows a little later
    page.evaluate("location.hash = '#story=figure2'")
    page.wait_for_selector('#gaussians[data-components="2"]')
    page.go_back()
    page.wait_for_selector('#gaussians[data-components="1"]')
    assert page.locator(".says").inner_text() == told


def test_back_is_not_undone_by_what_was_to_be_written(page: Any, site_url: str) -> None:
    """The address is written a little later: here between Back and the page's answer to it."""
    open_gaussians(page, site_url)
    page.evaluate(
        """() => {
            window.late = [];
            window.setTimeout = (call) => window.late.push(call);
            location.hash = '#story=figure2';
        }"""
    )
    page.wait_for_selector('#gaussians[data-components="2"]')
    assert page.evaluate("window.late.length")
    page.evaluate(
        """() => {
            addEventListener('popstate', () => window.late.splice(0).forEach((call) => call()));
            history.back();
        }"""
    )
    page.wait_for_selector('#gaussians[data-components="1"]')


def test_handles_stay_on_the_curve(page: Any, site_url: str) -> None:
    open_gaussians(page, site_url)
    page.get_by_label("weight of the left mode").focus()
    page.keyboard.press("Home")
    curve, places = page.evaluate(
        """() => [
            document.querySelector('.stage [data-name="target"]').getAttribute("d"),
            [...document.querySelectorAll(".stage .handle")].slice(0, 4)
                .map(handle => handle.getAttribute("transform").match(/[\\d.]+/g).map(Number)),
        ]"""
    )
    points = np.array([point.split() for point in curve[1:].split("L")], float)
    assert len(places) == 4
    for x, y in places:
        assert y == pytest.approx(np.interp(x, *points.T), abs=2)


def test_no_line_is_hidden_and_no_chart_empty(page: Any, site_url: str) -> None:
    open_gaussians(page, site_url)
    widths = page.locator('.stage [data-name^="student "]').evaluate_all(
        "lines => lines.map(line => parseFloat(line.style.strokeWidth))"
    )
    assert widths == [5, 2.5, 2.5, 2.5]  # forward KL first, below the others
    for k in range(len(SHOWN)):
        assert page.locator(f'.curves [data-name="now {k}"]').bounding_box()["width"] > 4


def middle(locator: Any) -> tuple[float, float]:
    box = locator.locator(".mark").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_by_mouse(page: Any, site_url: str) -> None:
    open_gaussians(page, site_url, "#steps=40")
    left = page.get_by_role("slider", name="Mean, first mode of the target")
    right = page.get_by_role("slider", name="Mean, second mode of the target")
    (x, y), (other, _) = middle(left), middle(right)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move((x + other) / 2, y, steps=4)
    page.mouse.up()
    assert left.get_attribute("aria-valuetext") == "μ 0.0"
    assert steps_shown(page) == 40  # the students go on from where they are
    page.mouse.move(other, y)
    assert left.get_attribute("aria-valuetext") == "μ 0.0"  # let go of

    ground = card(page, "reverse_kl").locator(".portrait")
    ground.scroll_into_view_if_needed()
    plot = ground.locator("canvas").bounding_box()
    page.mouse.click(plot["x"] + plot["width"] / 2, plot["y"] + plot["height"] / 2)
    start = page.get_by_role("slider", name="Mean, the students' start")
    assert abs(float(start.get_attribute("aria-valuenow"))) < 0.2
    assert steps_shown(page) == 0


def test_by_touch_on_a_phone(new_page: Callable, site_url: str) -> None:
    with new_page(viewport={"width": 360, "height": 740}, has_touch=True) as page:
        open_gaussians(page, site_url)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        tops = [page.locator(".student").nth(k).bounding_box()["y"] for k in range(4)]
        assert tops[0] == tops[1]
        assert tops[2] == tops[3]
        for button in page.locator("#gaussians button").all():
            assert button.bounding_box()["height"] >= 40

        width = page.get_by_role("slider", name="Width, second mode of the target")
        width.scroll_into_view_if_needed()
        x, y = middle(width)
        finger = page.context.new_cdp_session(page)
        scrolled = page.evaluate("scrollY")

        def touch(kind: str, *points: tuple[float, float]) -> None:
            points_now = [{"x": at_x, "y": at_y} for at_x, at_y in points]
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points_now})

        touch("touchStart", (x + 6, y - 6))  # not quite on it
        touch("touchMove", (x + 16, y + 30))
        touch("touchMove", (x + 28, y + 60))
        touch("touchEnd")
        sigma = float(width.get_attribute("aria-valuenow"))
        assert sigma == pytest.approx(0.5 + 22 / (312 / 14), abs=0.1)  # 14 units on 312 pixels
        assert page.evaluate("scrollY") == scrolled


def test_little_motion(new_page: Callable, site_url: str) -> None:
    with new_page(reduced_motion="reduce") as page:
        open_gaussians(page, site_url)
        page.evaluate(
            """() => {
                window.drawn = 0;
                const count = new MutationObserver(() => drawn++);
                count.observe(document.querySelector(".counter .value"), {childList: true});
            }"""
        )
        page.wait_for_timeout(300)
        assert page.evaluate("drawn") == 0
        page.get_by_role("button", name="Step").click()
        assert steps_shown(page) == 1
        page.get_by_role("button", name="Play").click()
        page.wait_for_timeout(1200)
        page.get_by_role("button", name="Pause").click()
        assert 1 <= page.evaluate("drawn") - 1 <= 3  # stills, two a second
        assert steps_shown(page) > 15


def test_an_address_opens_the_same_view(page: Any, site_url: str) -> None:
    view = (
        "#story=figure2&target=-2,2.5;0.5,0.8;0.3&start=-1,2;3,1"
        "&by=reverse_kl,skew_forward_kl,forward_kl,skew_reverse_kl&method=flow&steps=37"
    )
    open_gaussians(page, site_url, view)
    assert steps_shown(page) == 37
    shown = page.locator(".students").inner_text()
    page.wait_for_function("location.hash.includes('rate')")  # has been written anew
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("#gaussians[data-ready]")
    assert page.locator(".students").inner_text() == shown
    assert page.locator(".student select").first.input_value() == "reverse_kl"


def test_a_garbled_address_opens_the_first_view(page: Any, site_url: str) -> None:
    open_gaussians(page, site_url, "#story=none&start=9;x&target=a;b;c&by=kl&steps=-4&rate=7")
    assert steps_shown(page) == 0
    assert nats_shown(page, "forward_kl") == pytest.approx(1.794, abs=1e-3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_from_the_paper(new_page: Callable, site_url: str, scheme: str) -> None:
    with new_page(color_scheme=scheme) as page:
        open_gaussians(page, site_url)
        colours = page.evaluate(
            """() => {
                const probe = document.querySelector("#gaussians").appendChild(
                    document.createElement("i"));
                const names = ["paper", "ink", "muted", "target", "forward", "reverse", "jsd",
                               "akl", "skew-forward", "skew-reverse", "focus"];
                return Object.fromEntries(names.map((name) => {
                    probe.style.color = `var(--ex-${name})`;
                    return [name, getComputedStyle(probe).color.match(/\\d+/g).map(Number)];
                }));
            }"""
        )

    def luminance(rgb: list[int]) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (part / 255 for part in rgb)
        ]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    paper = luminance(colours.pop("paper"))
    assert (paper > 0.5) == (scheme == "light")
    for name, rgb in colours.items():
        light, dark = sorted([paper, luminance(rgb)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name
