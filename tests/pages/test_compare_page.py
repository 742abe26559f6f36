"""The page Compare on real runs of a tiny model: every control moves what it should, links open the same view, what cannot be compared is said."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from rotviz.jobs import supervise
from rotviz.jobs.execute import execute_now
from rotviz.models.loading import load
from rotviz.models.walk import BlockSource
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.token_scores import FILE
from rotviz.pipeline.waterfall import lines_of
from rotviz.reports.runs import method_of, title_of
from rotviz.rotations import ROTATIONS
from rotviz.store.runs import RunRecord, Store
from rotviz.surgery.doctor import source_sizes
from rotviz.surgery.plan import make_plan
from rotviz.surgery.saved import save_plan
from rotviz.types import Site, Slot
from rotviz.ui.compare import channel_lines, labels_of

PAGE = Path(__file__).resolve().parents[2] / "pages" / "compare.py"
CEILING = 2_000_000
LENGTH, WINDOWS = 32, 2


def _recipe(method: str = "hadamard", **more: object) -> Recipe:
    return Recipe.from_dict({"model": "tiny-llama", "text": {"evaluation": "pydoc", "windows": WINDOWS, "length": LENGTH},
                             "rotation": {"method": method}, "weights": {"method": "none", "bits": 16}, **more})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Finished runs of two protocols and two models, one without scores by token, one that waits."""
    folder = tmp_path_factory.mktemp("compare-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROTVIZ_HOME", str(folder))
        patch.setattr(supervise, "ensure_worker", lambda *_: False)
        store = Store()
        for recipe in (_recipe("none"), _recipe("orthogonal"), _recipe(), _recipe(kv={"bits": 4}), _recipe("none", kv={"bits": 4}),
                       _recipe(text={"evaluation": "pydoc", "windows": 1, "length": 64}), _recipe(model="tiny-qwen2"),
                       _recipe(weights={"bits": 4}, activations={"bits": 16})):
            execute_now(store, recipe)
        (store.folder(_of(store, seed=0, method="orthogonal").run_id) / FILE).unlink()
        store.create(_recipe(seed=5))
        yield folder


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("ROTVIZ_HOME", str(home))
    return Store()


def _of(store: Store, *, method: str = "hadamard", kv: int = 16, length: int = LENGTH, model: str = "tiny-llama", weights: int = 16,
        seed: int = 0) -> RunRecord:
    return next(r for r in store.list() if (r.recipe["rotation"]["method"], r.recipe["kv"]["bits"], r.recipe["text"]["length"], r.model,
                                            r.recipe["weights"]["bits"], r.recipe["seed"]) == (method, kv, length, model, weights, seed))


def _page(*records: RunRecord, state: dict[str, object] | None = None, **query: str) -> AppTest:
    """The page by a link; `state` is what the reader had chosen on pages before."""
    at = AppTest.from_file(str(PAGE), default_timeout=60)
    for key, value in (state or {}).items():
        at.session_state[key] = value
    for key, value in ({"runs": ",".join(r.run_id for r in records)} | query).items():
        at.query_params[key] = value
    at.run()
    assert not at.exception, at.exception[0].message
    return at


def _charts(at: AppTest) -> list[dict]:
    specs = [chart.proto.spec for chart in at.get("plotly_chart")]
    assert all(len(spec) < CEILING for spec in specs) and all(chart.proto.alt for chart in at.get("plotly_chart"))
    return [json.loads(spec) for spec in specs]


def _words(at: AppTest) -> str:
    return " ".join(str(e.value) for kind in (at.markdown, at.caption, at.info, at.warning, at.error) for e in kind)


def _table(at: AppTest, column: str) -> pd.DataFrame:
    """The table on the page (not one that belongs to a figure) that has a column."""
    return next(d.value for d in at.dataframe if column in d.value.columns)


def _marked(chart: dict) -> float:
    """Where the dashed line of what is looked at stands."""
    return next(s["x0"] for s in chart["layout"]["shapes"] if s["line"].get("dash") == "dash")


@pytest.fixture
def pair(store: Store) -> tuple[RunRecord, RunRecord]:
    return _of(store, method="none"), _of(store)


@pytest.fixture
def made(store: Store) -> Iterator[Callable[[Recipe], RunRecord]]:
    """Carries out further recipes, whose runs go when the test ends."""
    runs: list[str] = []

    def make(recipe: Recipe) -> RunRecord:
        runs.append(execute_now(store, recipe)["run_id"])
        return store.get(runs[-1])

    yield make
    for run_id in runs:
        store.delete(run_id)


# Which runs


def test_too_few_runs_say_what_is_needed(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Choose two to 6" in _words(_page())
    assert "Choose two to 6" in _words(_page(_of(store)))
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    assert "Two finished runs are needed, both of language models" in _words(_page())


def test_the_box_writes_the_link_and_the_link_chooses(pair: tuple[RunRecord, RunRecord], store: Store) -> None:
    at = _page(*pair)
    assert at.multiselect(key="compared").value == [r.run_id for r in pair]
    third = _of(store, kv=4)
    at.multiselect(key="compared").set_value([pair[1].run_id, third.run_id]).run()
    assert at.query_params["runs"] == f"{pair[1].run_id},{third.run_id}" or at.query_params["runs"] == [f"{pair[1].run_id},{third.run_id}"]
    assert "no run 'nonsense'" in _words(_page(*pair, run="nonsense"))
    assert "not finished" in _words(_page(*pair, _of(store, seed=5)))


def test_runs_measured_differently_are_not_compared(store: Store) -> None:
    at = _page(_of(store), _of(store, length=64))
    assert "must not be compared" in at.warning[0].value and not _charts(at)
    assert "changes what is measured" in " ".join(_table(at, "recipe key")["effect on perplexity"])


# Numbers and differences


def test_bars_have_error_bars_and_differences_are_ranked_by_their_effect(store: Store) -> None:
    chosen = [_of(store, method="none"), _of(store, kv=4), _of(store, weights=4)]
    at = _page(*chosen)
    perplexity, divergence = _charts(at)
    assert len(perplexity["data"][0]["y"]["bdata"] if isinstance(perplexity["data"][0]["y"], dict) else perplexity["data"][0]["y"]) >= 3
    assert any("error_x" in trace for trace in divergence["data"])
    table = _table(at, "recipe key")
    assert list(table["recipe key"])[:2] != [] and set(table["recipe key"]) == {"rotation.method", "kv.bits", "weights.bits", "activations.bits"}
    known = table[table["pairs of runs"] > 0]
    assert list(known["recipe key"].sort_values()) == ["kv.bits", "rotation.method"] and (known["pairs of runs"] == 2).all()
    assert list(known["nats a token"].abs()) == sorted(known["nats a token"].abs(), reverse=True)
    values = {(method, kv): np.log(_of(store, method=method, kv=kv).result["perplexity"]["quantized"]["value"])
              for method in ("hadamard", "none") for kv in (4, 16)}
    wanted = np.mean([values["hadamard", kv] - values["none", kv] for kv in (4, 16)])
    assert known.set_index("recipe key").loc["rotation.method", "nats a token"] == pytest.approx(wanted)
    assert "not known: no two runs differ in this alone" in set(table["effect on perplexity"])


def test_reports_are_at_hand(pair: tuple[RunRecord, RunRecord]) -> None:
    assert [b.label for b in _page(*pair).get("download_button")][:2] == ["Report as HTML", "Report as notebook"]


def test_a_run_with_a_rotation_from_a_file_has_that_rotations_name(store: Store, made: Callable[[Recipe], RunRecord], tmp_path: Path) -> None:
    file = tmp_path / "rotation-3f2a.safetensors"
    plan = make_plan(ROTATIONS["orthogonal"]().build, (Slot.R1,), source_sizes(BlockSource(load("tiny-llama").model)), 7)
    save_plan(file, plan, {"method": "peak"})
    plain = _of(store)
    loaded = made(_recipe(rotation={"load": str(file), "slots": ["R1"]}))
    assert loaded.recipe["rotation"]["method"] == "hadamard", "what the recipe says, and what was not used"
    assert labels_of([plain, loaded]) == {plain.run_id: "hadamard", loaded.run_id: "peak"}
    assert title_of(loaded).startswith("peak 3f2a R1 ")
    lines = lines_of(Recipe.from_dict(loaded.recipe))
    assert list(lines) == ["none", "peak"] and method_of(loaded) == "peak"
    waiting = replace(loaded, result=None)
    assert method_of(waiting) == "peak", "before there is a result the file says it"
    file.unlink()
    assert method_of(waiting) == "saved" and method_of(loaded) == "peak"


def test_the_same_recipe_twice_differs_in_nothing(pair: tuple[RunRecord, RunRecord], store: Store) -> None:
    again = execute_now(store, Recipe.from_dict(pair[1].recipe))["run_id"]
    try:
        assert "Their recipes are the same" in _words(_page(pair[1], store.get(again)))
    finally:
        store.delete(again)


# Blocks


def test_one_block_and_one_site_move_every_figure(store: Store) -> None:
    at = _page(_of(store, method="none"), _of(store), _of(store, kv=4), ctab="Blocks", b="0", s="mlp_in")
    lines, bars, residual, *maps = _charts(at)
    assert len([t for t in lines["data"] if t.get("showlegend", True)]) == 3 and _marked(lines) == 0
    assert len(maps) == 2 and maps[0]["data"][0]["zmax"] == maps[1]["data"][0]["zmax"], "one color scale"
    at.slider(key="b").set_value(1).run()
    moved = _charts(at)
    assert _marked(moved[0]) == _marked(moved[2]) == 1 and moved[1]["data"] != bars["data"] and moved[2]["data"] == residual["data"]
    at.selectbox(key="s").set_value("key").run()
    again = _charts(at)
    assert again[0]["data"] != moved[0]["data"] and again[1]["data"] == moved[1]["data"]
    at.button_group(key="err").set_value("sqnr_db").run()
    assert "SQNR" in _charts(at)[0]["layout"]["yaxis"]["title"]["text"]


def test_a_site_or_block_that_these_runs_do_not_have_is_replaced(store: Store) -> None:
    at = _page(_of(store, method="none"), _of(store), ctab="Blocks", state={"s": "value", "b": 29})
    assert at.selectbox(key="s").value == "resid" and at.slider(key="b").value == 1


# Channels


def test_one_channel_in_every_run(store: Store) -> None:
    runs = [_of(store, method="none"), _of(store), _of(store, kv=4)]
    at = _page(*runs, ctab="Channels", s="mlp_in", b="1")
    errors, rows = at.number_input(key="ch"), _table(at, "rank")
    assert list(rows["run"]) == list(labels_of(runs).values()) and rows["rank"].min() == 1
    assert _marked(_charts(at)[0]) == errors.value
    errors.set_value(3).run()
    assert _marked(_charts(at)[0]) == 3 and not _table(at, "rank").equals(rows)
    assert rows["squared error / mean square"][1] == rows["squared error / mean square"][2], "the KV cache's bits do not touch this site"
    at.selectbox(key="s").set_value("key").run()
    assert list(_table(at, "rank")["run"]) == [labels_of(runs)[runs[2].run_id]]
    kept = _page(*runs, ctab="Channels", state={"ch": 10**6}).number_input(key="ch")
    assert kept.value == kept.max


def test_kept_inputs_are_rounded_as_they_were(made: Callable[[Recipe], RunRecord]) -> None:
    listed = {"method": "listed", "listed": {"keep": ["1.down"], "bits": 8}}
    plain, kept = made(_recipe(weights={"bits": 4})), made(_recipe(weights={"bits": 4}, allocation=listed))
    for block, ratio in ((0, 1.0), (1, 100.0)):
        one, other = (values.sum() for values in channel_lines([plain, kept], block, Site.DOWN_IN).values())
        assert one == pytest.approx(other) if ratio == 1.0 else one > ratio * other


def test_scaled_channels_are_left_out_and_weights_alone_have_none(store: Store, made: Callable[[Recipe], RunRecord]) -> None:
    plain = _of(store)
    scaled = made(_recipe(scaling={"method": "smoothquant"}, text={"evaluation": "pydoc", "calibration": "pydoc", "samples": 1,
                                                                   "windows": WINDOWS, "length": LENGTH}))
    at = _page(plain, scaled, ctab="Channels", s="mlp_in", b="1")
    assert len(_table(at, "rank")) == 1 and "SmoothQuant scales channels" in _words(at)
    weights = _of(store, weights=4), made(_recipe(weights={"bits": 3}, activations={"bits": 16}))
    assert "No activations were rounded" in _words(_page(*weights, ctab="Channels"))


# Tokens


def test_losses_token_by_token_on_locked_axes(pair: tuple[RunRecord, RunRecord], store: Store) -> None:
    at = _page(*pair, _of(store, kv=4), ctab="Tokens", tk="40")
    layout = _charts(at)[0]["layout"]
    assert layout["yaxis"]["range"] == layout["yaxis2"]["range"] == layout["yaxis3"]["range"] and _marked(_charts(at)[0]) == 40
    rows = _table(at, "probability")
    assert list(rows["run"]) == ["float model", *labels_of([*pair, _of(store, kv=4)]).values()]
    assert "number 8 of window 1" in _words(at)
    at.number_input(key="tk").set_value(45).run()
    assert _marked(_charts(at)[0]) == 45 and not _table(at, "probability").equals(rows)
    at.toggle(key="whole").set_value(False).run()
    assert _charts(at)[0]["layout"]["xaxis"]["range"][0] > LENGTH - 2
    at.number_input(key="tk").set_value(LENGTH).run()
    assert "read and not scored" in _words(at)
    at.selectbox(key="vs").set_value("1").run()
    layout = _charts(at)[0]["layout"]
    assert "yaxis2" in layout and "yaxis3" not in layout, "a run is not compared with itself"


def test_without_a_choice_the_token_is_where_runs_are_farthest_apart(pair: tuple[RunRecord, RunRecord]) -> None:
    at = _page(*pair, ctab="Tokens")
    worst = _table(at, "after")
    assert at.number_input(key="tk").value == worst["token"][0]
    differences = worst[list(labels_of(pair).values())].abs().max(axis=1)
    assert list(differences) == sorted(differences, reverse=True)
    assert _page(*pair, ctab="Tokens", state={"tk": 10**6}).number_input(key="tk").value == LENGTH * WINDOWS - 1


def test_runs_without_scores_or_with_other_tokens_are_said(store: Store) -> None:
    words = _words(_page(_of(store, method="none"), _of(store, method="orthogonal"), ctab="Tokens"))
    assert "No scores by token: orthogonal" in words and "run the recipe again" in words
    assert "scored different tokens" in _words(_page(_of(store), _of(store, length=64), ctab="Tokens"))


# Cost and texts


def test_cost_and_quality(store: Store) -> None:
    at = _page(_of(store, method="none"), _of(store), ctab="Cost", cost="kv")
    points = [t for t in _charts(at)[0]["data"] if t["mode"] == "markers"]
    assert len(points) == 2
    at.button_group(key="quality").set_value("KL").run()
    assert "KL" in _charts(at)[0]["layout"]["yaxis"]["title"]["text"]
    at.toggle(key="every").set_value(True).run()
    assert {t["name"] for t in _charts(at)[0]["data"] if t["mode"] == "markers"} == {"chosen", "others"}
    at.button_group(key="cost").set_value("memory").run()
    assert "memory" in _charts(at)[0]["layout"]["xaxis"]["title"]["text"]


def test_texts_are_made_on_demand_kept_and_opened_by_a_link(store: Store) -> None:
    runs = [_of(store, method="none"), _of(store, weights=4)]
    at = _page(*runs, ctab="Texts", gp="Summer is warm.", gn="6")
    assert "they are made again" in _words(at) and at.button(key="generate").label == "Generate with 3 models"
    at.button(key="generate").click().run()
    assert not at.error and "the reference" in _words(at)
    again = _page(*runs, ctab="Texts", gp="Summer is warm.", gn="6")
    assert not any(b.key == "generate" for b in again.button) and "the reference" in _words(again)
    tokens = _table(again, "new token")
    assert len(tokens) == 6 and list(tokens.columns) == ["new token", "float model", *labels_of(runs).values()]
    for name in labels_of(runs).values():
        apart = np.flatnonzero(tokens[name] != tokens["float model"])
        assert (f"first divergence at new token {apart[0]}" if len(apart) else "says the same") in _words(again)
    again.number_input(key="gn").set_value(7).run()
    assert again.button(key="generate")
    again.text_area(key="gp").set_value("").run()
    again.button(key="generate").click().run()
    assert again.error


def test_runs_of_another_model_do_not_continue_the_text(store: Store) -> None:
    assert "another float model" in _words(_page(_of(store), _of(store, model="tiny-qwen2"), ctab="Texts"))
