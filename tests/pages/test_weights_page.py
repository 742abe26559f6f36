"""The page Weights on a tiny model: every tab draws, every control changes something, the waterfall queues what is missing and draws what is done."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from rotviz.cli import main
from rotviz.jobs import supervise
from rotviz.jobs.execute import execute, execute_now
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.waterfall import recipes_of
from rotviz.store.runs import Status, Store
from rotviz.types import Granularity, QuantSpec
from rotviz.ui.weights import ROTATED, STORED, FormLoss, Loss, stored_words, what_happens, why

PAGES = Path(__file__).resolve().parents[2] / "pages"
TEXT = {"evaluation": "pydoc", "calibration": "pydoc", "windows": 1, "length": 64, "samples": 2}
CEILING = 2_000_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with two finished runs, one of them calibrated; no worker is started in it."""
    folder = tmp_path_factory.mktemp("weights-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROTVIZ_HOME", str(folder))
        patch.setattr(supervise, "ensure_worker", lambda *_: False)
        for weights in ({"method": "rtn"}, {"method": "rounding", "bits": 3, "rounding": {"iterations": 4}}):
            execute_now(Store(), Recipe.from_dict({"model": "tiny-llama", "text": TEXT, "weights": weights, "activations": {"bits": 16}}))
        yield folder


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store of that home; what a test adds to it is removed."""
    monkeypatch.setenv("ROTVIZ_HOME", str(home))
    store = Store()
    before = {r.run_id for r in store.list()}
    yield store
    for record in store.list():
        if record.run_id not in before:
            store.delete(record.run_id)


def _page(name: str = "weights", **query: str) -> AppTest:
    at = AppTest.from_file(str(PAGES / f"{name}.py"), default_timeout=60)
    for key, value in ({"m": "tiny-llama"} | query).items():
        at.query_params[key] = value
    return _checked(at.run())


def _checked(at: AppTest) -> AppTest:
    assert not at.exception, at.exception[0].message
    return at


def _charts(at: AppTest) -> list[dict]:
    specs = [chart.proto.spec for chart in at.get("plotly_chart")]
    assert all(len(spec) < CEILING for spec in specs)
    return [json.loads(spec) for spec in specs]


def _words(at: AppTest) -> str:
    return " ".join(str(e.value) for kind in (at.markdown, at.caption, at.info, at.error) for e in kind)


@pytest.mark.usefixtures("store")
def test_one_linear_follows_every_control() -> None:
    at = _page()
    assert len(_charts(at)) == 2
    assert list(at.dataframe[-1].value["weight"]) == ["as stored", "folded", "rotated"]
    before = _words(at)
    for change in (
        lambda: at.selectbox(key="wf").set_value("power"), lambda: at.selectbox(key="wf").set_value("nvfp4"),
        lambda: at.selectbox(key="wf").set_value("fp8"), lambda: at.selectbox(key="wf").set_value("int"),
        lambda: at.selectbox(key="wbits7").set_value("3"), lambda: at.selectbox(key="wgroup").set_value("16"),
        lambda: at.selectbox(key="wclip").set_value("0.7"), lambda: at.toggle(key="wsym").set_value(False),
        lambda: at.selectbox(key="lin").set_value("down_proj"), lambda: at.slider(key="b").set_value(0),
        lambda: at.number_input(key="sa").set_value(3), lambda: at.selectbox(key="ra").set_value("orthogonal"),
    ):
        change()
        _checked(at.run())
        after = _words(at)
        assert after != before
        before = after


@pytest.mark.usefixtures("store")
def test_a_channel_is_drawn_in_its_own_unit_and_no_rotation_has_one_figure() -> None:
    at = _page(ra="none")
    assert "in steps" in _charts(at)[0]["layout"]["xaxis"]["title"]["text"]
    at.number_input(key="ch").set_value(5)
    _checked(at.run())
    assert len(_charts(at)) == 1 and _charts(at)[0]["layout"]["xaxis"]["title"]["text"] == "weight"


@pytest.mark.usefixtures("store")
def test_every_block_is_mapped_plain_and_rotated() -> None:
    at = _page(wtab="Every block", wclip="none")
    assert len(_charts(at)) == 3
    before = _words(at)
    at.button_group(key="wm").set_value("weight")
    assert _words(_checked(at.run())) != before
    at.button_group(key="slots").set_value([])
    assert "by **1**" in _words(_checked(at.run()))


@pytest.mark.usefixtures("store")
def test_runs_are_compared_by_linear_and_say_what_they_learned() -> None:
    at = _page(wtab="From runs")
    assert "What was learned" in _words(at)
    charts = len(_charts(at))
    assert charts >= 5
    at.button_group(key="wlearned").set_value("flips")
    _checked(at.run())
    at.multiselect(key="wruns").set_value([])
    assert "up to four" in _words(_checked(at.run()))


def test_the_waterfall_queues_what_is_missing_and_draws_what_is_done(store: Store) -> None:
    at = _page(wtab="Waterfall", wclip="none", ww="1", wl="64")
    at.selectbox(key="wab").set_value(8)
    _checked(at.run())
    at.button(key="wqueue").click()
    _checked(at.run())
    queued = store.list(status=Status.QUEUED)
    assert sorted((r.recipe["rotation"]["method"], r.recipe["activations"]["bits"], r.recipe["kv"]["bits"]) for r in queued) == [
        ("hadamard", 8, 4), ("hadamard", 8, 16), ("hadamard", 16, 16), ("none", 8, 4), ("none", 8, 16), ("none", 16, 16)]
    assert not _charts(at)
    for record in queued[:2]:
        execute(store, record.run_id)
    at = _page(wtab="Waterfall", wclip="none", ww="1", wl="64", wab="8")
    assert at.button(key="wqueue").disabled  # the others are on their way
    chart = _charts(at)[0]
    assert {line["name"] for line in chart["data"]} == {"none", "hadamard"}
    assert "4 steps without a result" in chart["layout"]["xaxis"]["title"]["text"]


def test_the_stack_is_assembled_step_by_step(store: Store) -> None:
    query = {"wtab": "Waterfall", "wview": "assembled", "wclip": "none", "ww": "1", "wl": "64", "wscale": "smoothquant", "walloc": "random",
             "wct": "pydoc", "wmethod": "gptq", "wkv": "16"}
    at = _page(**query)
    assert "+ hadamard R1, + R2, + R3, + R4, + smoothquant, + gptq, + random bits" in _words(at)
    at.button(key="wqueue").click()
    _checked(at.run())
    queued = store.list(status=Status.QUEUED)
    assert len(queued) == 9
    for record in queued:
        if record.recipe["rotation"]["method"] == "none" and record.recipe["scaling"]["method"] == "none":
            execute(store, record.run_id)
    at = _page(**query)
    charts = _charts(at)
    assert len(charts) == 2 and charts[0]["layout"]["yaxis"]["ticktext"][1:4] == ["W4 weights", "+ A4 activations", "+ hadamard R1"]
    assert "7 steps without a result" in charts[0]["layout"]["xaxis"]["title"]["text"] and "the perplexity goes to" in _words(at)
    assert "more are waiting" in _words(at)
    at.button_group(key="wview").set_value("by rotation")
    assert "No step of" in _words(_checked(at.run())), "there scaling and mixed precision belong to every step"


def test_halves_of_a_recipe_are_told_apart(store: Store) -> None:
    query = {"wtab": "Waterfall", "wview": "apart", "wclip": "none", "ww": "1", "wl": "64", "wmethod": "gptq", "wct": "pydoc"}
    at = _page(**query)
    assert "none · rtn, hadamard · rtn, none · gptq, hadamard · gptq" in _words(at)
    at.button(key="wqueue").click()
    _checked(at.run())
    queued = store.list(status=Status.QUEUED)
    assert len(queued) == 10, "activations alone are one run for each rotation"
    for record in queued:
        if record.recipe["weights"]["method"] != "gptq":
            execute(store, record.run_id)
    at = _page(**query)
    chart = _charts(at)[0]
    assert chart["layout"]["yaxis"]["ticktext"] == ["none · rtn", "hadamard · rtn", "none · gptq", "hadamard · gptq"]
    assert "**Hadamard**" in _words(at) and "activations" in _words(at) and "loses least" in _words(at)
    assert [len(frame.value) for frame in at.dataframe] == [4]
    at.button_group(key="wapm").set_value(["rtn", "rounding"])
    assert "none · rounding" in _charts(_checked(at.run()))[0]["layout"]["yaxis"]["ticktext"]
    at.selectbox(key="wmethod").set_value("rtn")
    assert _checked(at.run()).selectbox(key="wct").value == "pydoc", "rounding beside it learns from a text"
    at.selectbox(key="wab").set_value(16)
    at.selectbox(key="wkv").set_value(16)
    assert "must round both" in _words(_checked(at.run()))


def test_without_a_study_the_page_names_the_command(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rotviz.pipeline.rounding_study._RESULTS", store.home / "none")
    at = _page(wtab="Study")
    assert at.code[0].value == "python -m rotviz bench rounding-study --quick --model tiny-llama"


def test_a_study_is_drawn_judged_and_listed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rotviz.pipeline.rounding_study._RESULTS", store.home / "none")
    command = ["bench", "rounding-study", "--quick", "--seeds", "2", "--iterations", "1", "--windows", "1", "--length", "32", "--samples", "2"]
    try:
        assert main([*command, "--switches", "grid"]) == 0
        assert main([*command, "--switches", "grid", "--most", "1", "--set", "weights.bits=2"]) == 0
        (store.home / "studies" / "rounding-broken.json").write_text("{")
        at = _page(wtab="Study")
        assert len(at.selectbox(key="wstudy").options) == 2
        at.selectbox(key="wstudy").set_value(next(o for o in at.selectbox(key="wstudy").options if "W3g16" in o))
        _checked(at.run())
        charts = _charts(at)
        assert len(charts) == 1 and set(charts[0]["layout"]["yaxis"]["ticktext"]) == {"grid", "seeds of the base"}
        words = _words(at)
        assert "Plain rounding has a KL of" in words and words.count("not measured") == 5 and "2 seeds of the base" in words
        table = at.dataframe[-1].value
        assert {"times the base", "verdict", "flips", "exponent", "searched exponent"} <= set(table.columns) and len(table) == 5
        at = _page(wtab="Study", m="tiny-qwen2")
        assert "Not of tiny-qwen2" in _words(at)
    finally:
        shutil.rmtree(store.home / "studies", ignore_errors=True)


def test_a_runs_recipe_is_taken_apart(store: Store) -> None:
    run = store.list(status=Status.DONE)[0]
    at = _page(wtab="Waterfall", wsrc="of a run")
    at.selectbox(key="wrun").set_value(run.run_id)
    _checked(at.run())
    assert len(_charts(at)) == 2
    missing = len(recipes_of(Recipe.from_dict(run.recipe))) - 1
    assert at.button(key="wqueue").label == f"Queue {missing} missing run"


@pytest.mark.usefixtures("store")
def test_a_calibrated_method_asks_for_its_text_and_nonsense_is_refused_in_words() -> None:
    at = _page(wtab="Waterfall", wmethod="gptq", wct="pydoc")
    assert not at.button(key="wqueue").disabled
    at.selectbox(key="wf").set_value("nvfp4")
    at.selectbox(key="wmethod").set_value("rounding")
    _checked(at.run())
    assert "rounding" in at.error[0].value


# The recipe form of Evaluate


def test_a_calibrated_method_is_queued_from_the_free_choice(store: Store) -> None:
    at = _page("evaluate", ask="Free choice", w="1", l="64")
    at.button_group(key="free.weights.method").set_value("gptq")
    at.button_group(key="free.scaling.method").set_value("smoothquant")
    at.run()
    at.toggle(key="free.weights.gptq.act_order").set_value(not at.toggle(key="free.weights.gptq.act_order").value)
    at.number_input(key="free.scaling.alpha").set_value(0.75)
    at.text_input(key="free.text.calibration").set_value("pydoc")
    _checked(at.run())
    at.button(key="go").click()
    _checked(at.run())
    recipe = Recipe.from_dict(store.list(status=Status.QUEUED)[0].recipe)
    assert (recipe.weights.method, recipe.scaling.alpha, recipe.text.calibration) == ("gptq", 0.75, "pydoc")
    assert recipe.weight_settings != type(recipe.weight_settings)()


@pytest.mark.usefixtures("store")
def test_nonsense_is_refused_on_the_page() -> None:
    at = _page("evaluate", ask="Free choice", w="1", l="64")
    at.selectbox(key="free.weights.format").set_value("fp8")
    _checked(at.run())
    assert "fp8 has 8 bits, not 4" in at.error[0].value and at.button(key="go").disabled
    at.selectbox(key="free.weights.format").set_value("int")
    at.selectbox(key="free.allocation.method").set_value("importance")
    at.run()
    at.number_input(key="free.allocation.budget").set_value(12.0)
    _checked(at.run())
    assert "cannot be met" in at.error[0].value


def test_words_on_a_grid_that_the_stored_weights_lie_on() -> None:
    found = {STORED: FormLoss(Loss(3.6e-15, 1e-14, 0.0), 1.1, 16), "folded": FormLoss(Loss(0.0076, 0.0049, 0.0), 0.7, 32),
             ROTATED: FormLoss(Loss(0.0061, 0.0044, 0.0), 0.7, 32)}
    grid = QuantSpec(4, False, Granularity.GROUP, 32, number_format="int_min")
    assert "loses **0 %** of this weight's energy as stored and **0.61 %** rotated" in what_happens(found, grid)
    assert why(found) == "The stored weights lie on this grid; the rotation takes them off it."
    assert "rounding loses nothing" in stored_words(found)
    missed = found | {STORED: FormLoss(Loss(0.02, 0.01, 0.0), 1.1, 16)}
    assert "loses 2 % all the same" in stored_words(missed) and "lie on this grid" not in why(missed)
