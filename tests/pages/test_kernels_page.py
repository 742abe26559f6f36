"""The page Kernels and cost: it loads nothing, every control changes something, and without a GPU it says what is missing."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from rotviz.cli import main
from rotviz.deployment.shelf import deployed_folder
from rotviz.device import resolve_device
from rotviz.jobs import supervise
from rotviz.jobs.execute import execute_now
from rotviz.pipeline.recipe import Recipe
from rotviz.store.runs import Store

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
        assert any("not measured here" in info.value for info in at.info)


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


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A home with a run that can be packed, and one in a format that cannot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROTVIZ_HOME", str(tmp_path_factory.mktemp("deployed-home")))
        patch.setattr(supervise, "ensure_worker", lambda *_: False)
        plain = {"model": "tiny-llama", "text": {"evaluation": "pydoc", "windows": 1, "length": 32}, "kv": {"bits": 4}}
        store = Store()
        yield {"int": execute_now(store, Recipe.from_dict(plain))["run_id"],
               "fp4": execute_now(store, Recipe.from_dict(plain | {"weights": {"format": "fp4"}}))["run_id"]}


def test_a_run_is_deployed_and_weighed(runs, capsys):
    at = opened(kr=runs["int"])
    assert f"rotviz deploy {runs['int']}" in at.code[0].value and len(at.get("plotly_chart")) == 1
    assert main(["deploy", runs["int"], "--json"]) == 0 and capsys.readouterr().out
    at = opened(kr=runs["int"])
    charts = at.get("plotly_chart")
    assert len(charts) == 2 and "measured" in charts[1].proto.spec and charts[1].proto.alt and len(charts[1].proto.spec) < 2_000_000
    assert str(deployed_folder(runs["int"])) in at.code[0].value
    assert not any("predicted" in table.value.to_json() for table in at.dataframe), "a table comes when its expander is opened"
    at.session_state["deployed-folded"] = True
    at.run()
    assert any("attention weights" in table.value.to_json() and "predicted" in table.value.to_json() for table in at.dataframe)
    assert any("deployed" in option for option in at.selectbox(key="kernels-run").options)


def test_another_run_is_another_link(runs):
    at = opened(kr=runs["int"])
    at.selectbox(key="kernels-run").set_value(runs["fp4"]).run()
    assert at.query_params["kr"] in (runs["fp4"], [runs["fp4"]]) and any("cannot be packed" in info.value for info in at.info)


def test_a_run_that_cannot_be_packed_says_why(runs):
    at = opened(kr=runs["fp4"])
    assert any("cannot be packed: weights.format = fp4" in info.value for info in at.info)
    assert not at.code


def test_the_last_benchmark_is_shown(runs, capsys):
    assert any("bench deployment" in info.value for info in opened().info)
    assert main(["bench", "deployment", "--model", "tiny-llama", "--prompt", "8", "--tokens", "2", "--rounds", "1", "--device", "cpu"]) == 0
    at = opened()
    table = next(frame.value for frame in at.dataframe if "decode, tokens/s" in frame.value.columns)
    assert list(table["bits"]) == ["float32", "W4A4KV4", "float32", "W4A16KV16"]
    assert set(table["decode with CUDA graphs, tokens/s"]) == {"not measured"}
    assert any("this is a CPU" in caption.value for caption in at.caption)
