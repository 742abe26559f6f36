"""What the browser tests share: which pages there are, which model they look at, and what is wrong with no page."""

import re
from pathlib import Path

import pytest
from install_browser import find

ROOT = Path(__file__).parents[2]
PAGES = re.findall(r"pages/(\w+)\.py", (ROOT / "app.py").read_text())
TINY = "m=tiny-llama&n=64"
MARKS = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
if find() is None:
    MARKS.append(pytest.mark.skip(reason="no Chromium: python tools/install_browser.py"))


def path_of(name):
    """The path of a page in the address."""
    return "" if name == "overview" else name


def healthy(page):
    """No traceback, a title, and nothing wider than the window."""
    assert page.locator("[data-testid='stException']").count() == 0, page.locator("[data-testid='stException']").first.inner_text()
    assert page.locator("h1").first.is_visible()
    wide = """() => [document.documentElement, document.querySelector('[data-testid=stMain]')].some(e => e.scrollWidth > e.clientWidth + 1)"""
    assert not page.evaluate(wide), "the page scrolls sideways"
