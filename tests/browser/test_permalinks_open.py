"""A copied link opens the same state in a second browser context; the tour and the first page by keyboard alone."""

import re

import pytest
from lab import settled
from visits import MARKS, TINY, healthy

pytestmark = MARKS
STATE = """() => [...document.querySelectorAll('[data-testid=stMain] h1, [data-testid=stMain] h3, [data-testid=stMain] p,'
    + ' [data-testid=stMain] [role=listitem], [data-testid=stMain] [role=radio], [data-testid=stMain] input')]
    .map(e => e.tagName + (e.value ?? e.innerText) + (e.getAttribute('aria-checked') ?? e.checked ?? ''))"""


def moved(page, name, times=1):
    """Move a slider by keyboard."""
    slider = page.get_by_role("slider", name=name)
    slider.focus()
    for _ in range(times):
        page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(400)
    settled(page)


def choose(page, name):
    """Press one of a row of choices."""
    page.get_by_role("radio", name=name, exact=True).or_(page.get_by_role("button", name=name, exact=True)).first.click()
    page.wait_for_timeout(400)
    settled(page)


def same_in_another_browser(page, visit):
    """The address, opened in a context of its own, shows what this page shows."""
    again = visit(page.evaluate("() => location.href").split("/", 3)[3])
    healthy(again)
    assert again.evaluate(STATE) == page.evaluate(STATE)
    return again


def test_lessons(visit):
    page = visit(f"lessons?{TINY}")
    choose(page, "Clipping")
    moved(page, re.compile("Bits"), 1)
    moved(page, "Block", 1)
    page.get_by_text("Show the answer").click()
    settled(page)
    again = same_in_another_browser(page, visit)
    assert "lesson=Clipping" in again.url and "answer=true" in again.url


def test_lens(visit):
    page = visit(f"lens?{TINY}&s=down_in")
    moved(page, re.compile("share of the way"), 3)
    choose(page, "peak ratio")
    assert "way=0.35" in page.url and "shape=peak" in page.url
    same_in_another_browser(page, visit)


def test_microscope(visit):
    page = visit(f"microscope?{TINY}")
    page.get_by_role("textbox", name="Prefix").fill("Well, ")
    page.keyboard.press("Enter")
    page.get_by_text(re.compile("The sinks move|leaves the sinks")).wait_for()
    choose(page, "loss")
    page.get_by_text("Weights in float").wait_for()
    page.wait_for_url(re.compile("measure=loss"))
    settled(page)
    again = same_in_another_browser(page, visit)
    assert "pre=Well" in again.url and "measure=loss" in again.url


def test_tour_by_keyboard(visit):
    """From the top of the first page: Tab reaches the tour's links, Enter opens the step with all its choices, and the number is in the link."""
    page = visit(f"?{TINY}")
    page.locator("body").press("Tab")
    for _ in range(60):
        if page.evaluate("() => document.activeElement.innerText ?? ''").startswith("2. See what"):
            break
        page.keyboard.press("Tab")
    else:
        pytest.fail("the link of step 2 is not in the way of the Tab key")
    href = page.evaluate("() => document.activeElement.getAttribute('href')")
    assert href.startswith("rotate?") and "tour=2" in href and "b=14" in href
    page.evaluate("href => document.activeElement.setAttribute('href', href)", href.replace("smollm2-135m", "tiny-llama"))
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/rotate"))
    settled(page)
    healthy(page)
    assert page.get_by_text("Step 2 of 3").is_visible() and "tour=2" in page.url
    choose(page, "off")
    assert "tour=off" in page.url or "tour" not in page.url
