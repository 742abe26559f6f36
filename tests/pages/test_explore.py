"""The pages that look at a model, run by Streamlit's own test driver on tiny models: they load, every control changes something, figures are
small, and bad input gets a message."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

APP = Path(__file__).resolve().parents[2] / "app.py"
PAGES = ("overview", "outliers", "massive_tokens", "rotate", "doctor")
CEILING = 2_000_000


def opened(page: str, **query: str | list[str]) -> AppTest:
    """A page opened by a link, on a tiny model."""
    at = AppTest.from_file(str(APP), default_timeout=60)
    for key, value in ({"m": "tiny-llama", "n": "32"} | query).items():
        at.query_params[key] = value
    at.switch_page(f"pages/{page}.py")
    at.run()
    return checked(at)


def checked(at: AppTest) -> AppTest:
    """The same, if it neither raised nor complained."""
    assert not at.exception, [e.value for e in at.exception]
    assert not at.error, [e.value for e in at.error]
    return at


def specs(at: AppTest) -> list[str]:
    """The figures as they are sent."""
    return [chart.proto.spec for chart in at.get("plotly_chart")]


def words(at: AppTest) -> str:
    """All text of the page."""
    return "\n".join(m.value for m in (*at.markdown, *at.caption, *at.title, *at.info))


def seen(at: AppTest) -> tuple:
    """What a reader sees, to tell two views apart."""
    return words(at), specs(at), [d.value.to_json() for d in at.dataframe], [(m.label, m.value, m.delta) for m in at.metric]


@pytest.mark.parametrize("page", PAGES)
def test_page_loads_with_small_figures(page):
    at = opened(page)
    assert at.title
    if page != "doctor":
        assert specs(at)
    for chart in at.get("plotly_chart"):
        assert len(chart.proto.spec) < CEILING
        assert chart.proto.alt


@pytest.mark.parametrize(("page", "query"), [
    ("outliers", {"form": "3-D"}), ("outliers", {"tab": "Channels"}), ("outliers", {"tab": "Distribution"}), ("outliers", {"tab": "By block"}),
    ("outliers", {"s": "down_in"}), ("outliers", {"s": "key"}), ("rotate", {"rtab": "By block"}), ("rotate", {"rtab": "By channel"}),
    ("rotate", {"rtab": "All methods"}), ("massive_tokens", {"at": "mlp_in"}), ("massive_tokens", {"tok": "3"}),
])
def test_link_opens_another_view(page, query):
    at = opened(page, **query)
    assert seen(at) != seen(opened(page))
    assert all(len(spec) < CEILING for spec in specs(at))


@pytest.mark.parametrize(("page", "query", "key", "value"), [
    ("outliers", {}, "r", "orthogonal"), ("outliers", {}, "r", "none"), ("outliers", {}, "seed", 7), ("outliers", {}, "slots", ["R2"]),
    ("outliers", {}, "rms", False), ("outliers", {"tab": "Channels"}, "sort", True), ("outliers", {"tab": "By block"}, "ks", ["key", "value"]),
    ("outliers", {}, "b", 0), ("outliers", {}, "s", "resid"), ("massive_tokens", {}, "log", True), ("massive_tokens", {}, "tok", 5),
    ("massive_tokens", {}, "bos", False), ("rotate", {}, "ra", "none"), ("rotate", {}, "sb", 3), ("rotate", {}, "bits", "3"),
    ("rotate", {}, "clip", "mse"), ("rotate", {}, "group", "16"), ("rotate", {}, "sym", False), ("rotate", {}, "slots", []),
    ("rotate", {"rtab": "By block"}, "unit", "SQNR (dB)"), ("rotate", {"rtab": "By block"}, "kind", "massive"),
    ("rotate", {"rtab": "By channel"}, "csort", False), ("overview", {}, "s", "o_in"), ("overview", {}, "t", "prompt"),
])
def test_every_control_changes_something(page, query, key, value):
    at = opened(page, **query)
    before = seen(at)
    widget(at, key).set_value(value)
    assert seen(checked(at.run())) != before


def widget(at: AppTest, key: str):
    """The widget of a key, whatever its kind."""
    kinds = (at.selectbox, at.number_input, at.toggle, at.slider, at.button_group, at.text_area, at.multiselect)
    return next(w for kind in kinds for w in kind if w.key == key)


@pytest.mark.parametrize(("query", "message"), [
    ({"m": "no-such-model"}, "no-such-model"), ({"m": "./nowhere/"}, "no folder or file"), ({"m": "weights.bin"}, "weights.bin"),
    ({"t": "prompt", "prompt": ""}, "empty"),
    ({"t": "prompt", "prompt": "a", "bos": "false"}, "token"), ({"t": "file"}, "choose a text file"),
    ({"t": "file", "file": "../../x"}, "choose a text file"),
])
@pytest.mark.parametrize("page", ["overview", "rotate"])
def test_bad_input_gets_a_message(page, query, message):
    at = AppTest.from_file(str(APP), default_timeout=60)
    for key, value in ({"m": "tiny-llama", "n": "32"} | query).items():
        at.query_params[key] = value
    at.switch_page(f"pages/{page}.py").run()
    if query.get("prompt") == "":
        at.text_area(key="prompt").set_value("").run()
    assert not at.exception
    assert message in at.error[0].value
    assert len(at.error) == 1


def test_group_that_does_not_divide_gets_a_message():
    at = opened("rotate", m="tiny-llama")
    at.selectbox(key="group").set_value("48").run()
    assert not at.exception
    assert "48" in at.error[0].value and "does not divide" in at.error[0].value


def test_block_of_a_larger_model_is_brought_back():
    at = opened("outliers", b="1")
    at.session_state["b"] = 29
    assert checked(at.run()).slider(key="b").value == 1


def test_massive_token_is_named_in_words():
    at = opened("massive_tokens")
    assert "Token 0" in words(at) and "times" in words(at)
    row = at.dataframe[0].value.iloc[0]
    assert row["position"] == 0 and row["times the median"] > 1000


def test_numbers_are_in_the_figures_units():
    """The largest number over the root mean square is the crest factor; without the switch it is the number itself."""
    in_rms, plain = (opened("outliers", rms=value).dataframe[-1].value.set_index("statistic") for value in ("true", "false"))
    assert list(in_rms.loc["largest |x| / rms"]) == list(in_rms.loc["crest factor, max|x| / rms"]) != list(plain.loc["largest |x|"])
    assert list(in_rms.loc["excess kurtosis"]) == list(plain.loc["excess kurtosis"])


def test_text_without_massive_tokens_says_so():
    at = opened("massive_tokens", bos="false")
    assert "No token of this text is massive" in words(at)
    assert at.dataframe[0].value["times the median"].max() < 1000


def test_choosing_a_row_opens_the_token():
    at = opened("massive_tokens", bos="false")
    position = int(at.dataframe[0].value["position"].iloc[2])
    at.session_state["massive-table"] = {"selection": {"rows": [2], "columns": [], "cells": []}}
    at.run()
    at.number_input(key="tok").set_value(position).run()
    assert f"Token {position} “" in words(checked(at))


def test_doctor_states_slots_and_proof():
    at = opened("doctor")
    assert "keep the logits" in at.success[0].value
    tables = [d.value for d in at.dataframe]
    assert list(at.table[0].value.index) == ["R1", "R2", "R3", "R4"]
    assert any("holds" in t and t["holds"].all() for t in tables)


def test_scatter_marks_massive_tokens():
    traces = json.loads(specs(opened("rotate"))[0])["data"]
    assert "massive tokens" in {t.get("name") for t in traces}


def test_small_runs_are_queued(monkeypatch):
    queued = []
    monkeypatch.setattr("rotviz.ui.accumulated.submit", lambda recipe: queued.append(recipe))
    at = opened("rotate", rtab="Accumulated")
    at.button(key="queue-small").click().run()
    checked(at)
    assert [r.rotation.method for r in queued] == ["none", "orthogonal", "hadamard"]
    assert {(r.text.windows, r.text.length, r.text.evaluation, r.weights.spec().bits) for r in queued} == {(1, 32, "pydoc", 16)}
