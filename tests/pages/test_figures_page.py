"""The page of the papers' figures on a tiny model and tiny runs: every link opens, every control changes something, refusals are in words."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from rotviz.figures import FIGURES
from rotviz.jobs import supervise
from rotviz.jobs.execute import execute_now
from rotviz.pipeline.recipe import Recipe
from rotviz.store.runs import Store

APP = Path(__file__).resolve().parents[2] / "app.py"


@pytest.fixture(scope="module", autouse=True)
def filled_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home with two seeds of one recipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROTVIZ_HOME", str(tmp_path_factory.mktemp("figures-page-home")))
        patch.setattr(supervise, "ensure_worker", lambda *_: False)
        for seed in (0, 1):
            execute_now(Store(), Recipe.from_dict({"model": "tiny-llama", "text": {"evaluation": "pydoc", "windows": 1, "length": 32}, "seed": seed}))
        yield


def opened(**query: str) -> AppTest:
    at = AppTest.from_file(str(APP), default_timeout=60)
    for key, value in ({"m": "tiny-llama", "n": "32"} | query).items():
        at.query_params[key] = value
    at.switch_page("pages/figures.py").run()
    assert not at.exception, at.exception[0].message
    return at


def seen(at: AppTest) -> tuple:
    """What a reader sees, to tell two views apart."""
    return ([c.proto.spec for c in at.get("plotly_chart")], [c.value for c in at.caption], [c.value for c in at.code],
            [d.value.to_json() for d in at.dataframe])


def widget(at: AppTest, key: str):
    kinds = (at.selectbox, at.number_input, at.toggle, at.slider, at.button_group, at.multiselect, at.text_input)
    return next(w for kind in kinds for w in kind if w.key == key)


@pytest.mark.parametrize("name", list(FIGURES))
def test_each_figure_opens_by_its_link_with_all_that_belongs_to_it(name):
    at = opened(fig=name)
    charts = at.get("plotly_chart")
    assert charts and not at.warning
    assert all(chart.proto.alt and len(chart.proto.spec) < 2_000_000 for chart in charts)
    assert any(FIGURES[name].paper in c.value.replace("\\", "") and "Drawn by rotviz" in c.value for c in at.caption)
    script, command = (c.value for c in at.code)
    assert f"make('{name}'" in script and command.startswith(f"python -m rotviz figure {name} --model tiny-llama")
    labels = {b.proto.label for b in at.get("download_button")}
    assert {"HTML", "CSV", "JSON", "Script", "All (ZIP)"} <= labels
    assert "rotviz" in set(at.dataframe[-1].value["what"])


@pytest.mark.parametrize(("name", "key", "value"), [
    ("spikes", "spikes.rotations", ["orthogonal"]), ("spikes", "spikes.seed", 3), ("spikes", "spikes.lines", 5), ("spikes", "spikes.rms", False),
    ("channel-ribbons", "channel-ribbons.sort", True), ("flatness", "flatness.alpha", 0.5), ("error-scatter", "error-scatter.bits", 3),
    ("error-scatter", "error-scatter.clip", "mse"), ("kurtosis-by-block", "kurtosis-by-block.sites", ["key"]),
    ("massive-bars", "massive-bars.seeds", 1), ("migration", "migration.steps", 5), ("pareto", "pareto.cost", "seconds"),
    ("error-accumulation", "error-accumulation.measure", "massive"), ("spikes", "b", 0), ("spikes", "s", "down_in"), ("spikes", "fig", "flatness"),
])
def test_every_control_changes_something(name, key, value):
    at = opened(fig=name)
    before = seen(at)
    widget(at, key).set_value(value).run()
    assert not at.exception and not at.warning and seen(at) != before


def test_runs_are_chosen_and_can_be_left_out():
    at = opened(fig="error-accumulation")
    runs = at.multiselect(key="error-accumulation.runs")
    assert len(runs.options) == 2 and len(runs.value) == 1
    before = seen(at)
    runs.set_value(runs.options).run()
    assert seen(at) != before
    at.multiselect(key="error-accumulation.runs").set_value([]).run()
    assert "choose one or more" in at.info[0].value and not at.get("plotly_chart")


def test_a_model_without_runs_is_told_where_to_begin():
    at = opened(fig="pareto", m="tiny-opt")
    assert "there are none yet" in at.info[0].value


@pytest.mark.parametrize(("query", "words"), [
    ({"fig": "migration", "s": "down_in"}, "is not behind one"), ({"fig": "massive-bars", "bos": "false"}, "no token is massive"),
])
def test_what_cannot_be_drawn_is_said(query, words):
    at = opened(**query)
    assert words in at.warning[0].value.replace("\\", "") and not at.get("plotly_chart")


def test_without_a_browser_the_page_says_so(monkeypatch):
    monkeypatch.setattr("rotviz.plots.export.browser", lambda: None)
    at = opened(fig="flatness")
    assert any("need a browser" in c.value for c in at.caption)
    assert not {"SVG", "PDF"} & {b.proto.label for b in at.get("download_button")}
