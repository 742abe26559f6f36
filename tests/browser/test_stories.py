"""The three kinds of visitors, in a real browser on a tiny model: tools/stories.py does what they do, this says what they must have got."""

import tomllib

import pytest
from lab import served
from stories import comparer, researcher, teacher
from visits import MARKS

from rotviz.jobs.execute import execute_now
from rotviz.pipeline.recipe import Recipe
from rotviz.store.runs import Status, Store

pytestmark = MARKS


@pytest.fixture(scope="module")
def lab(tmp_path_factory, browser):
    """A server of its own with two runs, its store, and a function that opens browsers that know nothing of each other."""
    home, contexts = tmp_path_factory.mktemp("stories-home"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROTVIZ_HOME", str(home))
        runs = [execute_now(Store(), Recipe.from_dict({
            "model": "tiny-llama", "rotation": {"method": method}, "weights": {"method": "none", "bits": 16},
            "text": {"evaluation": "pydoc", "windows": 2, "length": 32}}))["run_id"] for method in ("none", "hadamard")]

    def page():
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 1600}))
        return contexts[-1].new_page()

    with served(home) as address:
        yield address, Store(home), runs, page
        for context in contexts:
            context.close()


def no_shot(page, name):
    """The tests need no pictures."""


def test_a_researcher_finds_what_hurts_and_exports_the_recipe_that_mends_it(lab):
    address, store, _, page = lab
    worst, file = researcher(page(), f"{address}/hurts?m=tiny-llama&hn=1&hl=64&hclip=none&ra=none", no_shot)
    recipe = Recipe.from_dict(tomllib.loads(file.read_text()))
    assert recipe.allocation.method == "listed"
    assert recipe.fingerprint in {r.fingerprint for r in store.list() if r.status is Status.DONE}, "what was exported is what was measured"
    assert worst in {"0", "1"}


def test_two_rotations_are_compared_down_to_a_token(lab):
    address, _, runs, page = lab
    chosen = comparer(page(), f"{address}/compare?runs={','.join(runs)}", no_shot)
    assert chosen["b"] == "0" and chosen["tk"] == "5" and set(chosen["runs"].split(",")) == set(runs)


def test_a_teachers_link_shows_the_same_in_a_pupils_browser(lab):
    address, _, _, page = lab
    own, pupils = teacher(page(), page(), f"{address}/lessons?m=tiny-llama&lesson=Clipping&b=0", no_shot)
    assert own == pupils and len(own) > 300
