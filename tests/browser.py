"""A headless Chromium for pages that are files."""

import io
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import psutil
import pytest
from PIL import Image as Picture

PROGRAM = next(filter(shutil.which, ("chromium", "chromium-browser", "chrome")), None)

DRAWN_BY_THE_PROCESSOR = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
NO_WEBGL = ("--disable-3d-apis",)


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable]:
    """Start a browser with flags; all end with the module, and Playwright, for whose
    loop no other may run. Skips where none is installed."""
    if PROGRAM is None:
        pytest.skip("no Chromium is installed; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield lambda *flags: playwright.chromium.launch(
            executable_path=shutil.which(PROGRAM),
            args=["--no-sandbox", "--disable-dev-shm-usage", *flags],
        )


@pytest.fixture(scope="module")
def browser(launch):
    """One that draws WebGL2 by the processor."""
    return launch(*DRAWN_BY_THE_PROCESSOR)


@contextmanager
def opened(browser, path, size=(1000, 700), **how):
    """A page of a file; the block fails if it says anything on the console or asks for
    another file."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, **how)
    page.set_default_timeout(60_000)
    wrong = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url))
    page.goto(path.resolve().as_uri())
    wrong.remove(path.resolve().as_uri())
    yield page
    assert [one for one in wrong if not one.startswith("data:")] == []
    page.close()


def wait_for(page, expression):
    """Until a script is true; the page's policy forbids Playwright's own way."""
    until = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < until, expression
        time.sleep(0.02)


def pixels_of(page, selector):
    """RGB of what is seen of an element."""
    picture = Picture.open(io.BytesIO(page.locator(selector).screenshot()))
    return np.asarray(picture.convert("RGB"), int)


def memory_mb():
    """What all processes of browsers that this one started hold, shared pages once."""
    held = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if "chrom" in process.name():
                held += process.memory_full_info().pss
    return held / 1e6
