"""The pages Evaluate and Runs on real runs of a tiny model: they load, each control changes something, bad input becomes words."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from rotviz.errors import BadInput
from rotviz.jobs import supervise
from rotviz.jobs.execute import execute, execute_now
from rotviz.pipeline.recipe import Recipe
from rotviz.store.runs import RunRecord, Status, Store

PAGES = Path(__file__).resolve().parents[2] / "pages"
CEILING = 2_000_000


def _recipe(method: str = "hadamard", **more: object) -> Recipe:
    return Recipe.from_dict({"model": "tiny-llama", "text": {"evaluation": "pydoc", "windows": 2, "length": 32},
                             "rotation": {"method": method}, **more})


@pytest.fixture(scope="module")
def filled_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with finished runs of two protocols and one that failed; no worker is started in it."""
    home = tmp_path_factory.mktemp("runs-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROTVIZ_HOME", str(home))
        patch.setattr(supervise, "ensure_worker", lambda *_: False)
        store = Store()
        for recipe in (_recipe("none"), _recipe("orthogonal"), _recipe("hadamard"),
                       _recipe(text={"evaluation": "pydoc", "windows": 1, "length": 64})):
            execute_now(store, recipe)
        with pytest.raises(BadInput):
            execute_now(store, _recipe(weights={"group": 7}))
        yield home


@pytest.fixture
def store(filled_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store of the filled home; what a test adds to it is removed."""
    monkeypatch.setenv("ROTVIZ_HOME", str(filled_home))
    store = Store()
    before = {r.run_id for r in store.list()}
    yield store
    for record in store.list():
        if record.run_id not in before:
            store.delete(record.run_id)


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without runs."""
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    monkeypatch.setattr(supervise, "ensure_worker", lambda *_: False)
    return tmp_path


def _page(name: str, **query: str) -> AppTest:
    at = AppTest.from_file(str(PAGES / f"{name}.py"), default_timeout=60)
    for key, value in query.items():
        at.query_params[key] = value
    at.run()
    assert not at.exception, at.exception[0].message
    return at


def _evaluate(**query: str) -> AppTest:
    return _page("evaluate", **{"m": "tiny-llama", "w": "2", "l": "64"} | query)


def _charts(at: AppTest) -> list[dict]:
    specs = [chart.proto.spec for chart in at.get("plotly_chart")]
    assert all(len(spec) < CEILING for spec in specs)
    return [json.loads(spec) for spec in specs]


def _words(at: AppTest) -> str:
    return " ".join(str(e.value) for kind in (at.markdown, at.caption, at.info, at.warning, at.error, at.code, at.subheader) for e in kind)


def _done(store: Store, length: int = 32) -> list[RunRecord]:
    return [r for r in store.list(status=Status.DONE) if r.recipe["text"]["length"] == length]


# Evaluate


@pytest.mark.usefixtures("empty_home")
def test_evaluate_on_a_fresh_machine_says_what_is_not_known() -> None:
    words = _words(_evaluate())
    assert "not measured yet" in words
    assert "No finished run of tiny-llama yet" in words
    assert "Nothing waits and nothing runs" in words


def test_presets_go_on_the_queue_once(store: Store) -> None:
    at = _evaluate()
    at.button_group(key="r-none").set_value([])
    at.button_group(key="r-orthogonal").set_value(["W4A8", "W4A4KV4"])
    at.button_group(key="r-hadamard").set_value(["W4A16"])
    at.multiselect(key="seeds").set_value([0, 1]).run()
    assert at.button(key="go").label == "Put 6 runs on the queue"
    at.button(key="go").click().run()
    queued = store.list(status=Status.QUEUED)
    assert len(queued) == 6
    assert {r.recipe["seed"] for r in queued} == {0, 1}
    assert all(r.recipe["text"]["windows"] == 2 and r.model == "tiny-llama" for r in queued)
    assert at.button(key="go").disabled and "6 of these are on the queue" in _words(at) and "next in line" in _words(at)
    at.button_group(key="r-hadamard").set_value(["W4A16", "W4A8"]).run()
    assert at.button(key="go").label == "Put 2 runs on the queue"
    at.button(key="go").click().run()
    assert len(store.list(status=Status.QUEUED)) == 8


def test_a_waiting_run_can_be_cancelled_and_resumed_from_the_page(store: Store) -> None:
    at = _evaluate()
    at.button(key="go").click().run()
    run_id = store.list(status=Status.QUEUED)[0].run_id
    at.button(key=f"cancel-{run_id}").click().run()
    assert store.get(run_id).status is Status.CANCELLED
    at.run()
    assert "Cancelled before it began" in _words(at)
    at.button(key=f"resume-{run_id}").click().run()
    assert store.get(run_id).status is Status.QUEUED
    at.button(key="cancel-waiting").click().run()
    assert store.count(Status.QUEUED) == 0


def test_what_the_page_queues_gives_the_numbers_of_every_other_door(store: Store) -> None:
    at = _evaluate(l="64", w="1")
    for method in ("none", "orthogonal"):
        at.button_group(key=f"r-{method}").set_value([])
    at.run()
    at.toggle(key="again").set_value(True).run()
    at.button(key="go").click().run()
    queued = store.list(status=Status.QUEUED)[0]
    there = _done(store, 64)[0]
    assert queued.fingerprint == there.fingerprint
    assert execute(store, queued.run_id)["perplexity"] == store.result(there.run_id)["perplexity"]


def test_what_has_a_result_is_not_run_again_unless_wanted(store: Store) -> None:
    length = _done(store, 64)[0].recipe["text"]["length"]
    at = _evaluate(w="1", l=str(length))
    assert at.button(key="go").label == "Put 2 runs on the queue"
    at.toggle(key="again").set_value(True).run()
    assert at.button(key="go").label == "Put 3 runs on the queue"


@pytest.mark.usefixtures("store")
def test_protocols_are_never_mixed_and_each_figure_draws_them() -> None:
    at = _evaluate()
    assert at.selectbox(key="pr").options == ["pydoc, 1 × 64 tokens", "pydoc, 2 × 32 tokens"]
    assert len(at.dataframe[0].value) == 1
    at.selectbox(key="pr").set_value("pydoc, 2 × 32 tokens").run()
    assert sorted(at.dataframe[0].value["recipe"]) == ["hadamard W4A4", "none W4A4", "orthogonal W4A4"]
    at.session_state["results"] = {"selection": {"rows": [0, 1], "columns": [], "cells": []}}
    at.run()
    assert len(_charts(at)[0]["data"][0]["x"]) == 2


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("figure", ["Perplexity", "Divergence", "Cost and quality", "Error by block"])
def test_each_figure_of_the_results_is_drawn_alone(figure: str) -> None:
    assert len(_charts(_evaluate(fig=figure))) == 1


@pytest.mark.usefixtures("store")
def test_the_error_measure_changes_the_figure() -> None:
    at = _evaluate(fig="Error by block")
    before = _charts(at)[0]["layout"]["yaxis"]["title"]["text"]
    at.button_group(key="err").set_value("sqnr_db").run()
    assert _charts(at)[0]["layout"]["yaxis"]["title"]["text"] != before


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("figure", "key", "linked", "name"), [
    ("Error by block", "err", "sqnr_db", "sqnr_db"), ("Error by block", "err", "SQNR (dB)", "sqnr_db"),
    ("Cost and quality", "cost", "kv", "kv"), ("Cost and quality", "cost", "bits a weight", "weights"),
])
def test_links_carry_names_and_those_with_words_still_open(figure: str, key: str, linked: str, name: str) -> None:
    at = _evaluate(fig=figure, **{key: linked})
    control = at.button_group(key=key)
    assert control.value == name
    assert {name, "massive" if key == "err" else "activations"} <= set(control.options)


def test_the_free_choice_queues_any_recipe(store: Store) -> None:
    at = _evaluate(ask="Free choice")
    at.selectbox(key="free.kv.bits").set_value(3)
    at.number_input(key="free.weights.group").set_value(16).run()
    at.button(key="go").click().run()
    recipe = store.list(status=Status.QUEUED)[0].recipe
    assert (recipe["kv"]["bits"], recipe["weights"]["group"], recipe["text"]["length"]) == (3, 16, 64)


def test_a_recipe_file_is_queued_as_it_stands(store: Store) -> None:
    at = _evaluate(ask="From a file")
    at.file_uploader(key="recipe-file").set_value(("a.toml", _recipe(seed=9).to_toml().encode(), "application/toml")).run()
    at.button(key="go").click().run()
    assert store.list(status=Status.QUEUED)[0].recipe == _recipe(seed=9).to_dict()


@pytest.mark.usefixtures("store")
def test_a_bad_recipe_file_becomes_a_message() -> None:
    at = _evaluate(ask="From a file")
    at.file_uploader(key="recipe-file").set_value(("a.toml", b"[weights]\nbits = 17", "application/toml")).run()
    assert "17" in at.error[0].value
    assert at.button(key="go").disabled


@pytest.mark.usefixtures("store")
def test_a_binary_or_missing_text_file_becomes_a_message() -> None:
    at = _evaluate(et="file")
    assert "Choose a text file" in _words(at)
    at.file_uploader(key="et-file").set_value(("a.txt", b"\x00\x01\x02", "text/plain")).run()
    assert "binary" in at.error[0].value
    assert at.button(key="go").disabled


def test_an_uploaded_text_is_measured_on(store: Store) -> None:
    at = _evaluate(et="file")
    at.file_uploader(key="et-file").set_value(("a.txt", b"Some words to measure on. " * 99, "text/plain")).run()
    at.button(key="go").click().run()
    source = Path(store.list(status=Status.QUEUED)[0].recipe["text"]["evaluation"])
    assert source.read_text().startswith("Some words")


@pytest.mark.usefixtures("store")
def test_no_seed_and_no_preset_queue_nothing() -> None:
    at = _evaluate()
    at.multiselect(key="seeds").set_value([]).run()
    assert at.button(key="go").disabled
    assert "at least one seed" in _words(at)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("model", "words"), [("tiny-lama", "tiny-llama"), ("no/where.gguf", "no folder or file")])
def test_an_unknown_model_is_refused_in_words(model: str, words: str) -> None:
    at = AppTest.from_function(_framed, default_timeout=60, args=(str(PAGES / "evaluate.py"),))
    at.query_params["m"] = model
    at.run()
    assert not at.exception
    assert words in at.error[0].value


def _framed(page: str) -> None:
    """A page with the errors in words, as rotviz.ui.frame gives them."""
    import runpy

    import streamlit as st

    from rotviz.errors import RotvizError

    try:
        runpy.run_path(page)
    except RotvizError as error:
        st.error(str(error))


# Runs


@pytest.mark.usefixtures("empty_home")
def test_runs_of_an_empty_home_says_where_to_begin() -> None:
    assert "Nothing has been run yet" in _words(_page("runs"))


@pytest.mark.parametrize(("query", "left"), [
    ({}, 5), ({"q": "orthogonal"}, 1), ({"q": "rotation.method=hadamard length=32"}, 2), ({"rs": "failed"}, 1), ({"rr": "none"}, 1),
    ({"rm": "tiny-llama"}, 5), ({"q": "nothing like this"}, 0),
])
@pytest.mark.usefixtures("store")
def test_filters(query: dict[str, str], left: int) -> None:
    assert len(_page("runs", **query).dataframe[0].value) == left


def test_a_link_opens_a_run_with_all_its_parts(store: Store) -> None:
    record = _done(store)[0]
    at = _page("runs", run=record.run_id)
    assert record.title in _words(at)
    assert "python -m rotviz run" in _words(at)
    assert len(_charts(at)) == 1
    assert len(at.metric) == 5
    for part in ("Recipe", "Proof", "Weights", "Time and place"):
        assert _page("runs", run=record.run_id, part=part).exception == []


def test_the_end_of_an_id_is_enough_and_an_unknown_one_is_said(store: Store) -> None:
    record = _done(store)[0]
    assert record.title in _words(_page("runs", run=record.run_id.rpartition("-")[2]))
    assert "no run 'nonsense'" in _words(_page("runs", run="nonsense"))


def test_a_failed_run_says_why_and_can_be_resumed(store: Store) -> None:
    record = store.list(status=Status.FAILED)[0]
    at = _page("runs", run=record.run_id)
    assert "group 7" in _words(at)
    assert "Traceback" in _words(at)  # in the folded error log
    assert at.button(key=f"resume-{record.run_id}")


def test_two_runs_stand_side_by_side_and_go_on_to_compare(store: Store) -> None:
    a, b, _ = _done(store)
    at = _page("runs", runs=f"{a.run_id},{b.run_id}")
    assert not _charts(at) and at.button(key="compare") and "measured differently" not in _words(at)
    assert len(at.dataframe[1].value.columns) == 3


def test_finished_runs_can_be_taken_away_as_a_report(store: Store) -> None:
    a, b, _ = _done(store)
    failed = store.list(status=Status.FAILED)[0]
    reports = {"Report as HTML", "Report as notebook"}
    for query in ({"run": a.run_id}, {"runs": f"{a.run_id},{b.run_id}"}):
        assert reports <= {button.proto.label for button in _page("runs", **query).get("download_button")}
    assert not reports & {button.proto.label for button in _page("runs", run=failed.run_id).get("download_button")}


def test_runs_of_two_protocols_are_said_to_be_so(store: Store) -> None:
    a, b = _done(store)[0], _done(store, 64)[0]
    assert "measured differently" in _words(_page("runs", runs=f"{a.run_id},{b.run_id}"))


def test_an_unfinished_run_is_not_compared(store: Store) -> None:
    a, failed = _done(store)[0], store.list(status=Status.FAILED)[0]
    at = _page("runs", runs=f"{a.run_id},{failed.run_id}")
    assert "needs two finished runs" in _words(at) and not any(button.key == "compare" for button in at.button)


def test_rows_of_the_table_and_the_box_open_runs(store: Store) -> None:
    first, second = _done(store)[:2]
    at = _page("runs")
    at.multiselect(key="open").set_value([first.run_id]).run()
    assert at.query_params["run"] == first.run_id
    assert len(at.metric) == 5
    at.multiselect(key="open").set_value([first.run_id, second.run_id]).run()
    assert "2 runs side by side" in _words(at)
    assert "run" not in at.query_params


def test_delete_asks_first(store: Store) -> None:
    run_id = store.create(_recipe(seed=77))
    store.request_cancel(run_id)
    at = _page("runs", run=run_id)
    at.button(key="delete").click().run()
    assert store.get(run_id)
    at.button(key="delete-really").click().run()
    assert run_id not in [r.run_id for r in store.list()]
