"""The token microscope, run by Streamlit's own test driver: it opens by a link, every control changes something, text of any script is whole."""

import re

import numpy as np
import pytest
from test_explore import checked, opened, widget, words

from rotviz.ui.microscope import by_token, changed_look, moved, served
from rotviz.ui.microscope import sinks as sink_words


def strips(at):
    """The texts in HTML."""
    return [h.value for h in at.get("html") if "role='list'" in h.value]


def seen(at):
    return words(at), strips(at), [d.value.to_json() for d in at.dataframe]


def test_text_is_colored_and_every_token_is_in_the_table():
    at = opened("microscope")
    (strip,) = strips(at)
    table, methods = at.dataframe[0].value, at.dataframe[1].value
    assert len(table) == 32 == strip.count('role="listitem"') and list(table["position"]) == list(range(32))
    assert {"none", "orthogonal", "hadamard", "best method"} <= set(table.columns) and "relative error" in strip
    assert methods["best on"].sum() == 32 and len(at.dataframe) == 3
    best = table[["none", "orthogonal", "hadamard"]].idxmin(axis=1)
    assert (best == table["best method"]).all()
    assert table.loc[0, "massive"] and "massive" in strip


@pytest.mark.parametrize(("key", "value"), [
    ("color", "best method"), ("color", "none"), ("mm", ["none", "hadamard"]), ("seed", 5), ("bits", "3"), ("clip", "1.0"), ("group", "16"),
    ("sym", False), ("slots", ["R2"]), ("b", 0), ("s", "down_in"), ("measure", "loss"), ("pre", "Well: "), ("del", "none"), ("nobos", True),
])
def test_every_control_changes_something(key, value):
    at = opened("microscope")
    before, box = seen(at), at.text_input(key="pre") if key == "pre" else widget(at, key)
    box.set_value(value)
    assert seen(checked(at.run())) != before


def test_a_changed_text_stands_beside_the_first_and_the_sinks_are_compared():
    at = opened("microscope", n="128", t="prompt", prompt="Summer is warm. Winter is cold.\nSo it goes.", pre="Oh ", **{"del": ". to ,"})
    before, after = strips(at)
    assert "“.”" in before and "“.”" not in after and "“O”" in after and "“O”" not in before
    assert "sinks" in words(at) and {"as it is", "changed"} == set(at.dataframe[1].value["text"])
    scales = [re.search(r"relative error \(log scale\): (.+?)&nbsp;", strip)[1] for strip in (before, after)]
    assert scales[0] == scales[1]
    first = at.dataframe[0].value
    widget(at, "which").set_value("Changed")
    assert len(checked(at.run()).dataframe[0].value) == len(first) + 3


def test_without_bos_the_sink_is_gone():
    at = opened("microscope", nobos="true")
    assert len(strips(at)) == 2 and "The sinks move. Before: **token 0" in words(at) and "After: **no massive token**" in words(at)


def test_losses_are_kept_and_read_again(session_home):
    at = opened("microscope", measure="loss", color="hadamard", t="prompt", prompt="Losses are kept on disk.")
    table = at.dataframe[0].value
    assert np.isnan(table["hadamard"][0]) and table["hadamard"][1:].abs().max() > 0 and "loss difference" in strips(at)[0]
    kept = {path: path.stat().st_mtime_ns for path in (session_home / "losses").glob("*.npy")}
    again = opened("microscope", measure="loss", color="hadamard", t="prompt", prompt="Losses are kept on disk.").dataframe[0].value
    assert table.equals(again) and kept == {path: path.stat().st_mtime_ns for path in (session_home / "losses").glob("*.npy")} and len(kept) >= 3


def test_text_of_any_script_is_whole():
    at = opened("microscope", t="prompt", prompt="Grüße, 你好 👩‍🚀!", color="best method")
    (strip,) = strips(at)
    assert "\ufffd" not in strip and all(f"<bdi>{c}</bdi>" in strip for c in ("ü", "你", "好", "👩\u200d🚀"))
    assert "\ufffd" not in "".join(at.dataframe[0].value["token"]) and "⋯" in set(at.dataframe[0].value["token"])


@pytest.mark.parametrize(("query", "message"), [({"mm": []}, "at least one method"), ({"n": "2048", "measure": "loss"}, "up to 1,024 tokens")])
def test_what_cannot_be_shown_is_said(query, message):
    at = opened("microscope", **query)
    if "mm" in query:
        at = checked(widget(at, "mm").set_value([]).run())
    assert message in words(at) and not strips(at)


def test_group_that_does_not_divide_gets_a_message():
    at = opened("microscope", m="tiny-llama")
    at.selectbox(key="group").set_value("48").run()
    assert not at.exception and "does not divide" in at.error[0].value


def test_words_and_means_by_hand():
    assert by_token(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 2]), 3).tolist() == [2.0, pytest.approx(np.nan, nan_ok=True), 5.0]
    assert "**a** serves 2 tokens best, b 1" in served(np.array([0, 1, 0, -1]), ["a", "b"])
    assert sink_words(["x"], []) == "no massive token" and "where they were" in moved((["x"], []), (["y"], []))


def test_a_change_of_nothing_is_no_change():
    from rotviz.capture.inspect import Look

    look = Look("tiny-llama", prompt="a.b\nc")
    assert changed_look(look, "", "as it is", True) == look
    assert changed_look(look, "x ", "none", False) == Look("tiny-llama", prompt="x ab c", bos=False)
