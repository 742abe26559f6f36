"""The page Does rotation help here: its sentence is the command's, and every control changes something."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from test_explore import checked, opened, seen, specs, widget, words

from rotviz.cli import main
from rotviz.cli.verdict import _worst_first
from rotviz.evaluation.paired import _unjudged
from rotviz.types import Site


def test_the_page_says_what_the_command_says(capsys):
    at = opened("verdict", n="64")
    assert main(["verdict", "--model", "tiny-llama", "--tokens", "64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    helps = found["counts"]["helps"]
    assert len(found["places"]) == 12 and f"helps at {helps} of 12 places" in found["summary"] and f"helps at {helps} of 12 places" in words(at)
    assert [(m.value, m.delta) for m in at.metric] == [(str(n), "of 12") for kind, n in found["counts"].items() if n or kind != "cannot be told"]
    chart = json.loads(specs(at)[0])
    assert {t.get("name") for t in chart["data"][1:]} >= {kind for kind, n in found["counts"].items() if n}
    assert set(at.dataframe[-1].value["why"]) == {p["reason"] for p in found["places"]}


@pytest.mark.parametrize(("query", "key", "value"), [
    ({}, "ra", "orthogonal"), ({}, "rb", "none"), ({}, "sb", 3), ({"ra": "orthogonal"}, "sa", 2), ({}, "slots", ["R1"]), ({}, "bits", "3"),
    ({}, "clip", "0.7"), ({}, "group", "16"), ({}, "sym", False), ({}, "vorder", "best first"), ({}, "vkinds", ["hurts"]), ({}, "b", 0),
    ({}, "s", "resid"), ({}, "s", "key"),
])
def test_every_control_changes_something(query, key, value):
    at = opened("verdict", **({"n": "64"} | query))
    before = seen(at)
    widget(at, key).set_value(value)
    assert seen(checked(at.run())) != before


def test_too_short_a_text_is_said_not_judged():
    at = opened("verdict", t="prompt", prompt="Too short.")
    assert "At 12 nothing can be told" in words(at) and "cannot be judged**: too few tokens" in words(at) and "nan" not in words(at)
    table = at.dataframe[-1].value
    assert len(table) == 12 and set(table["verdict"]) == {"cannot be told"} and table["why"].str.startswith("too few tokens").all()


def test_a_group_that_fits_some_sites_is_judged_there():
    at = opened("verdict", n="64", group="16")
    assert "At 4 nothing can be told" in words(at)
    table = at.dataframe[-1].value
    assert len(table) == 8 and not table["why"].str.contains("does not divide").any()
    at.button_group(key="vkinds").set_value(["helps", "no difference", "hurts", "cannot be told"])
    assert list(checked(at.run()).dataframe[-1].value["B / A"].isna()) == [False] * 8 + [True] * 4, "what has no number comes last"


@pytest.mark.parametrize(("arguments", "words"), [
    (["--b", "hadamrd"], "did you mean 'hadamard'"), (["--b", "dartquant"], "has to be learned first"),
    (["--b", "no-such.safetensors"], "no-such"),
    (["--slots", "R9"], "R1, R2, R3, R4"),
    (["--clip", "much"], "share of the range"), (["--bits", "9"], "no grid"),
])
def test_bad_input_is_refused_in_one_line(capsys, arguments, words):
    assert main(["verdict", "--model", "tiny-llama", "--tokens", "32", *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("rotviz: ") and words in said


def test_for_people_the_worst_places_are_listed(capsys):
    assert main(["verdict", "--model", "tiny-llama", "--tokens", "64"]) == 0
    out = capsys.readouterr().out
    assert "where B gains least" in out and len(out.strip().splitlines()) == 14


def test_places_that_cannot_be_told_come_last() -> None:
    ratios = [math.nan, 0.5, math.nan, 2.0, 1.0, math.nan]
    places = [replace(_unjudged(block, Site.ATTN_IN, np.zeros(1, dtype=bool), ""), ratio=ratio) for block, ratio in enumerate(ratios)]
    assert [place.block for place in _worst_first(places)] == [3, 4, 1, 0, 2, 5]
