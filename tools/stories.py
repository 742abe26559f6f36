"""What three kinds of visitors come for, done in a real browser: for the browser tests, on a tiny model, and for the pictures of `make screenshots`.

    researcher  finds the block that hurts, keeps it at more bits, sees what that mends, exports the recipe
    comparer    sets two runs side by side and goes down to a block and a token
    teacher     sets a lesson up and sends the link; a pupil's browser shows the same

Each takes a function `shot(page, name)` that is called where there is something to see.
"""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from lab import settled
from playwright.sync_api import Page, TimeoutError

Shot = Callable[[Page, str], None]
MEASURED = 600_000
"""Milliseconds that a run on the queue may take."""


def researcher(page: Page, link: str, shot: Shot) -> tuple[str, Path]:
    """From the page Which layer hurts to a measured mend: the unit that hurts most, and the exported recipe."""
    page.goto(link)
    settled(page, 300)
    if page.get_by_role("button", name="Measure", exact=True).count():
        page.get_by_role("button", name="Measure", exact=True).click()
    page.get_by_text("The worst first").wait_for(timeout=MEASURED)
    settled(page)
    shot(page, "researcher-1-finds-the-block")
    worst = re.search(r"^\d+\S*", page.get_by_test_id("stMultiSelect").inner_text(), re.M)[0]
    page.get_by_role("button", name=re.compile("Queue: keep")).click()
    page.get_by_text("with these kept").wait_for(timeout=MEASURED)
    settled(page)
    page.get_by_text("with these kept").scroll_into_view_if_needed()
    shot(page, "researcher-2-mends-it")
    with page.expect_download() as download:
        page.get_by_role("button", name="Recipe (TOML)").click()
    return worst, download.value.path()


def comparer(page: Page, link: str, shot: Shot) -> dict[str, str]:
    """From two runs to one token of the text: the choices that the link then carries."""
    page.goto(f"{link}&ctab=Blocks&b=1")
    settled(page, 300)
    click_point(page, 0, 1, 0)
    shot(page, "comparer-1-a-block-in-both")
    block = choices(page)
    page.goto(f"{link}&ctab=Tokens")
    settled(page, 300)
    click_point(page, 0, 1, 4)
    shot(page, "comparer-2-a-token-in-both")
    return block | choices(page)


def teacher(page: Page, pupil: Page, link: str, shot: Shot) -> tuple[str, str]:
    """A lesson with its answer shown and its first dial moved; the words of both browsers."""
    page.goto(link)
    settled(page, 300)
    page.get_by_test_id("stMain").get_by_role("slider").first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(2000)
    settled(page)
    show_answer(page)
    settled(page)
    shot(page, "teacher-1-sets-it-up")
    pupil.goto(page.url)
    settled(pupil, 300)
    shot(pupil, "teacher-2-what-a-pupil-opens")
    return main_words(page), main_words(pupil)


def show_answer(page: Page) -> None:
    """Switch it on until the link says so. A switch that is clicked while a redraw is under way, as on a busy machine, shows what it should, but
    Streamlit (seen in 1.67) may leave it out of the link; off and on again it is in."""
    for _ in range(4):
        page.get_by_text("Show the answer").click()
        try:
            page.wait_for_url(re.compile("answer=true"), timeout=10_000, wait_until="commit")
            return
        except TimeoutError:
            settled(page)
            if page.get_by_role("switch", name="Show the answer").is_checked():
                page.get_by_text("Show the answer").click()
                settled(page, 500)
    page.wait_for_url(re.compile("answer=true"))


def click_point(page: Page, figure: int, trace: int, point: int) -> None:
    """Click on a point of a trace of a figure, counted from 0."""
    page.wait_for_selector(".js-plotly-plot .point", state="attached")
    page.wait_for_timeout(500)
    spot = page.locator(".js-plotly-plot").nth(figure).locator(".scatterlayer .trace").nth(trace).locator(".point").nth(point).bounding_box()
    page.mouse.click(spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2)
    page.wait_for_timeout(700)
    settled(page)


def choices(page: Page) -> dict[str, str]:
    """What a page's link carries."""
    return {name: values[0] for name, values in parse_qs(urlparse(page.url).query).items()}


def main_words(page: Page) -> str:
    """The words of a page, with those of its figures."""
    return page.get_by_test_id("stMain").inner_text()
