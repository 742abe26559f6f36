"""Linked choices in a real browser: a click on a point of one figure moves the widgets, the other figures and the link."""

import pytest
from install_browser import find
from lab import served, settled
from stories import choices, click_point

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


def test_a_point_of_one_figure_moves_the_block_of_all(opened):
    page = opened("compare?runs={runs}&ctab=Blocks&b=1")
    click_point(page, 0, 1, 0)
    assert choices(page).get("b") == "0"
    assert page.get_by_text("Errors in block 0").is_visible()


def test_a_token_of_the_text_is_shown_in_every_run(opened):
    page = opened("compare?runs={runs}&ctab=Tokens&tk=40")
    assert page.get_by_text("number 8 of window 1").is_visible()
    click_point(page, 0, 1, 4)  # the first token of a window is not scored: point 4 is token 5
    assert choices(page).get("tk") == "5"
    assert page.get_by_text("number 5 of window 0").is_visible()


def test_runs_go_on_to_compare(opened):
    page = opened("runs?runs={runs}")
    page.get_by_role("button", name="Compare these").click()
    page.wait_for_url("**/compare?*")
    settled(page)
    assert page.get_by_role("heading", name="Compare runs").is_visible()
    assert len(choices(page).get("runs").split(",")) == 2
