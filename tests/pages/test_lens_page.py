"""The rotation lens, run by Streamlit's own test driver: it opens by a link, every control changes something, and what cannot be shown is said."""

import pytest
from test_explore import CEILING, checked, opened, seen, specs, widget, words

from rotviz.evaluation import lens


def test_lens_shows_five_small_figures_and_the_numbers():
    at = opened("lens")
    assert len(specs(at)) == 5 and all(len(spec) < CEILING for spec in specs(at)) and all(c.proto.alt for c in at.get("plotly_chart"))
    assert [m.label for m in at.metric] == ["Energy lost by rounding", "Excess kurtosis", "Peak ratio of a token"]
    assert "massive tokens" in words(at) and "hold 90 % of it" in words(at)


def test_every_control_changes_something():
    at = opened("lens")
    for key, value in (("way", 0.0), ("way", 1.0), ("r", "orthogonal"), ("seed", 7), ("bits", "3"), ("clip", "1.0"), ("group", "16"),
                       ("group", "0"), ("sym", False), ("shape", "peak ratio"), ("b", 0), ("s", "key"), ("s", "o_in")):
        before = seen(at)
        widget(at, key).set_value(value)
        assert seen(checked(at.run())) != before, key
    before, box = seen(at), at.selectbox(key="spike")
    box.set_value(box.options[1])
    assert seen(checked(at.run())) != before


def test_link_opens_the_same_view():
    at = opened("lens", way="0.25", s="key", shape="peak ratio")
    assert at.slider(key="way").value == 0.25 and "t = 0.25" in words(at) and "head by head" in words(at)


@pytest.mark.parametrize("query", [{"r": "none"}, {"slots": ["R4"]}])
def test_without_a_way_it_says_so(query):
    at = opened("lens", **query)
    assert "There is no way to go" in words(at) and not specs(at)


def test_too_wide_is_refused_politely(monkeypatch):
    monkeypatch.setattr(lens, "WIDEST", 64)
    from streamlit.testing.v1 import AppTest
    from test_explore import APP

    at = AppTest.from_file(str(APP), default_timeout=60)
    for key, value in {"m": "tiny-llama", "n": "64"}.items():
        at.query_params[key] = value
    at.switch_page("pages/lens.py").run()
    assert not at.exception and "head by head" in at.error[0].value and len(at.error) == 1
