"""The built site, a server for it, and a browser that takes no error for granted.

Playwright drives the Chromium or Chrome that is installed and downloads none. Without one the tests
are skipped, but under CI they fail: a site nobody looked at is not tested.
"""

import fcntl
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sphinx.cmd.build import main as sphinx

from book.slides import BROWSERS

REPOSITORY = Path(__file__).parents[2]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# What a page says and writes a little later, so as not to interrupt, it does here after a tenth of
# that time, in the same order.
HURRY = """(() => {
    const later = window.setTimeout;
    window.setTimeout = (what, delay, ...more) => later(what, delay / 10, ...more);
})();"""


@pytest.fixture(scope="session")
def built_site(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The folder of the built site; whichever worker comes first builds it for all."""
    shared = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # under xdist each worker has a folder below it
        shared = shared.parent
    site = shared / "site"
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "site.done").exists():
            build_site(site, shared / "site-doctrees")
            (shared / "site.done").touch()
    return site


def build_site(site: Path, doctrees: Path) -> None:
    """Builds the site as ``make site`` does: every warning is an error.

    What that has read and written of a page is done again only where the page has changed.
    """
    made = REPOSITORY / "build"
    if (made / "site").is_dir() and (made / "doctrees").is_dir():
        shutil.copytree(made / "doctrees", doctrees)
        shutil.copytree(made / "site", site)
    log = doctrees.with_suffix(".log")
    build = multiprocessing.get_context("fork").Process(
        target=run_sphinx, args=(site, doctrees, log)
    )
    build.start()
    build.join()
    if build.exitcode:
        pytest.fail(f"the site does not build:\n{log.read_text()}", pytrace=False)


def run_sphinx(site: Path, doctrees: Path, log: Path) -> None:
    """In a forked process: torch and nbformat are there, and sphinx leaves nothing behind."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(REPOSITORY)
    words = ["-q", "-b", "html", "-c", "site", "-W", "--keep-going"]
    sys.exit(sphinx([*words, "-d", str(doctrees), ".", str(site)]))


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """The tests read the browser's log, not the server's."""


@pytest.fixture(scope="session")
def site_url(built_site: Path) -> Iterator[str]:
    """The address of the built site's root on a local server, without a slash at its end."""
    handler = partial(QuietHandler, directory=str(built_site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, one for all tests of a worker."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        missing = f"none of {', '.join(BROWSERS)} is installed: `make browser` installs one"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser: Any) -> Callable:
    """``with new_page(**options) as page``: a page in a fresh context; an error of it is fatal.

    The options are those of Playwright's ``browser.new_context``: ``viewport``, ``color_scheme``,
    ``reduced_motion`` ...
    """
    return partial(_open_page, browser)


@pytest.fixture
def page(new_page: Callable) -> Iterator[Any]:
    """A page at desktop width; the test fails if the console, a script or a request did."""
    with new_page(viewport={"width": 1280, "height": 800}) as page:
        yield page


@pytest.fixture(scope="session")
def engine(browser: Any, site_url: str) -> Iterator[Any]:
    """A small page of the site on which figures' engines are imported; their tests share it."""
    with _open_page(browser) as page:
        page.goto(f"{site_url}/404.html")
        yield page


@contextmanager
def _open_page(browser: Any, **options: Any) -> Iterator[Any]:
    wrong: list[str] = []
    context = browser.new_context(**options)
    context.add_init_script(HURRY)
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("console", lambda message: wrong.append(_said(message)))
    page.on("pageerror", lambda error: wrong.append(f"uncaught: {error}"))
    page.on("requestfailed", lambda request: wrong.append(_failed(request)))
    page.on("response", lambda answer: wrong.append(_refused(answer)))
    try:
        yield page
    finally:  # also where the test has failed: what the console says is often why
        context.close()
        wrong = list(filter(None, wrong))
        assert not wrong, "\n".join(wrong)


def _said(message: Any) -> str:
    return f"console: {message.text} ({message.location})" if message.type == "error" else ""


def _refused(answer: Any) -> str:
    return f"{answer.status}: {answer.url}" if answer.status >= 400 else ""


def _failed(request: Any) -> str:
    """Nothing for what a page was still loading when the test left it."""
    left = request.failure == "net::ERR_ABORTED"
    return "" if left else f"request failed: {request.failure}: {request.url}"
