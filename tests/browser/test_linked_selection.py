"""Linked choices in a real browser: a click on a point of one figure moves the widgets, the other figures and the link."""

from urllib.parse import parse_qs, urlparse

import pytest
from install_browser import find
from lab import served, settled

from rotviz.jobs.execute import execute_now
from rotviz.pipeline.recipe import Recipe
from rotviz.store.runs import Store

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
if find() is None:
    pytestmark.append(pytest.mark.skip(reason="no Chromium: python tools/install_browser.py"))


@pytest.fixture(scope="module")
def opened(tmp_path_factory, browser):
    """A function that opens the page Compare on two runs of a tiny model."""
    home = tmp_path_factory.mktemp("linked-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROTVIZ_HOME", str(home))
        runs = [execute_now(Store(), Recipe.from_dict({
            "model": "tiny-llama", "rotation": {"method": method}, "weights": {"method": "none", "bits": 16},
            "text": {"evaluation": "pydoc", "windows": 2, "length": 32}}))["run_id"] for method in ("none", "hadamard")]
    with served(home) as address:
        def open_page(query):
            page = browser.new_page(viewport={"width": 1280, "height": 1600})
            page.goto(f"{address}/{query.format(runs=','.join(runs))}")
            settled(page)
            return page

        yield open_page


def click(page, figure, trace, point):
    """Click on a point of a trace of a figure, counted from 0."""
    page.wait_for_selector(".js-plotly-plot .point", state="attached")
    page.wait_for_timeout(500)
    spot = page.locator(".js-plotly-plot").nth(figure).locator(".scatterlayer .trace").nth(trace).locator(".point").nth(point).bounding_box()
    page.mouse.click(spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2)
    page.wait_for_timeout(700)
    settled(page)


def linked(page, name):
    return parse_qs(urlparse(page.url).query).get(name, [None])[0]


def test_a_point_of_one_figure_moves_the_block_of_all(opened):
    page = opened("compare?runs={runs}&ctab=Blocks&b=1")
    click(page, 0, 1, 0)
    assert linked(page, "b") == "0"
    assert page.get_by_text("Errors in block 0").is_visible()


def test_a_token_of_the_text_is_shown_in_every_run(opened):
    page = opened("compare?runs={runs}&ctab=Tokens&tk=40")
    assert page.get_by_text("number 8 of window 1").is_visible()
    click(page, 0, 1, 4)  # the first token of a window is not scored: point 4 is token 5
    assert linked(page, "tk") == "5"
    assert page.get_by_text("number 5 of window 0").is_visible()


def test_runs_go_on_to_compare(opened):
    page = opened("runs?runs={runs}")
    page.get_by_role("button", name="Compare these").click()
    page.wait_for_url("**/compare?*")
    settled(page)
    assert page.get_by_role("heading", name="Compare runs").is_visible()
    assert len(linked(page, "runs").split(",")) == 2
