"""The page Kernels and cost: it loads nothing, every control changes something, and without a GPU it says what is missing."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from rotviz.device import resolve_device

APP = Path(__file__).resolve().parents[2] / "app.py"


def opened(**query: str) -> AppTest:
    """The page opened by a link."""
    at = AppTest.from_file(str(APP), default_timeout=60)
    for key, value in query.items():
        at.query_params[key] = value
    at.switch_page("pages/kernels.py")
    at.run()
    assert not at.exception, [e.value for e in at.exception]
    return at


def seen(at: AppTest) -> tuple:
    """Figures, tables and words."""
    return ([c.proto.spec for c in at.get("plotly_chart")], [t.value.to_json() for t in (*at.table, *at.dataframe)], [c.value for c in at.caption])


def test_it_opens_with_a_small_described_figure():
    at = opened()
    (chart,) = at.get("plotly_chart")
    assert len(chart.proto.spec) < 2_000_000 and "smaller" in chart.proto.spec and chart.proto.alt
    assert "8.03 billion" in at.caption[0].value
    if resolve_device("auto").type == "cpu":
        assert "not measured" in at.info[0].value


@pytest.mark.parametrize("query", [{"ks": "Mixtral-8x7B"}, {"ks": "own numbers", "k-mlp": "11008"}, {"kw": "8"}, {"kg": "128"}, {"ka": "16"},
                                   {"kk": "8"}, {"kc": "32768"}, {"kn": "16"}, {"kp": "true"}], ids=str)
def test_a_link_opens_another_view(query):
    assert seen(opened(**query)) != seen(opened())


def test_shapes_that_cannot_be_are_refused_in_words():
    at = opened(ks="own numbers", **{"k-kv_heads": "5"})
    assert "do not share" in at.error[0].value
    assert "config.json" in opened(ks="a config.json").info[0].value


@pytest.mark.parametrize(("content", "words"), [(b"{", "not JSON"), (b"[]", "JSON object"), (b"{}", "no hidden_size"), (json.dumps({
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
    "vocab_size": 49152}).encode(), None)])
def test_a_configuration_is_read(content, words):
    at = opened(ks="a config.json")
    at.get("file_uploader")[0].upload("config.json", content, "application/json").run()
    assert not at.exception
    if words:
        assert words in at.error[0].value
    else:
        assert not at.error and "0.1345 billion" in at.caption[0].value


def test_the_references_are_measured_on_request():
    at = opened()
    at.button(key="kgo").click().run()
    assert not at.exception and not at.error
    assert len(at.get("plotly_chart")) == 2 and at.metric[0].label == "Copy rate"
    if resolve_device("auto").type == "cpu":
        assert (at.dataframe[-1].value["triton, µs"] == "not measured").all()
