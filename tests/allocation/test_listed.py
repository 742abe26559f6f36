"""Keeping what is named: which units a list means, what a run makes of it, and what is refused."""

import pytest
import torch

from rotviz.allocation import ALLOCATIONS, Units, is_budgeted
from rotviz.allocation.listed import Listed
from rotviz.errors import BadInput
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.run import finish, run
from rotviz.quantizers import QUANTIZERS

NAMES = tuple(f"{block}.{role}" for block in range(12) for role in ("q", "k", "v", "o", "gate", "up", "down"))
SMALL = {"model": "tiny-llama", "text": {"evaluation": "pydoc", "calibration": "pydoc", "windows": 2, "length": 64, "samples": 2},
         "weights": {"bits": 3, "clip": "none", "omniquant": {"epochs": 1}, "rounding": {"iterations": 2, "batch": 2}},
         "allocation": {"method": "listed", "listed": {"keep": ["1.down"]}}}


def recipe(*changes):
    return Recipe.from_dict(with_changes(SMALL, changes))


def units(names=NAMES):
    numbers = torch.arange(1, len(names) + 1)
    return Units(numbers, torch.ones(len(names)), torch.zeros(len(names), 5, dtype=torch.float64), names=names)


@pytest.mark.parametrize(("keep", "meant"), [
    (("7.down",), ["7.down"]), (("11",), [n for n in NAMES if n.startswith("11.")]), (("o",), [n for n in NAMES if n.endswith(".o")]),
    (("1", "1.q"), [n for n in NAMES if n.startswith("1.")]), (("0.q", "11.up"), ["0.q", "11.up"]), ((), []),
])
def test_a_list_means_these_units(keep, meant):
    bits = Listed(keep, 8).allocate(units(), 4, torch.Generator())
    assert [name for name, b in zip(NAMES, bits.tolist()) if b == 8] == meant and set(bits.tolist()) <= {4, 8}


def test_fused_linears_are_found_by_any_of_their_roles():
    assert Listed(("0.k",)).kept(("0.q+k+v", "0.o", "1.q+k+v")) == [8, 0, 0]


def test_entries_may_have_bits_of_their_own_and_the_most_count():
    assert Listed(("0", "0.k=6", "0.o=16", "1.o=3"), 8).kept(("0.q+k+v", "0.o", "1.o", "1.up")) == [8, 16, 3, 0]
    assert Listed(("0.k=6", "1=4")).title == "keeps 0.k=6, 1=4" and Listed(("0.k=6", "1")).title == "keeps 0.k=6, 1 at 8"
    assert Listed(("0.k=6", "1")).levels == (6, 8)


def test_kept_units_never_get_fewer_bits_than_the_others():
    assert set(Listed(("o",), 4).allocate(units(), 6, torch.Generator()).tolist()) == {6}


def test_it_is_the_strategy_without_a_budget():
    assert [name for name in ALLOCATIONS if not is_budgeted(ALLOCATIONS[name])] == ["listed"]


@pytest.mark.parametrize("entry", ["7.dwn", "x", "7.", ".down", "-1", "7.8", "1.2.q", "", "7.router"])
def test_entries_that_mean_nothing_are_refused(entry):
    with pytest.raises(BadInput, match="neither a block"):
        Listed((entry,))


@pytest.mark.parametrize("entry", ["7.down=9", "7=", "o=x"])
def test_bits_that_there_are_none_of_are_refused(entry):
    with pytest.raises(BadInput, match="there are 2, 3, 4"):
        Listed((entry,))


@pytest.mark.parametrize("entry", ["12", "12.q", "30"])
def test_entries_beyond_the_model_are_refused_with_what_it_has(entry):
    with pytest.raises(BadInput, match="blocks 0 to 11 with q, k, v, o, gate, up, down"):
        Listed((entry,)).kept(NAMES)


@pytest.mark.parametrize(("changes", "words"), [
    ([("allocation.listed.keep", [])], "keep is empty"), ([("allocation.budget", 4.0)], "budget has no meaning"),
    ([("allocation.listed.bits", 3), ("activations.bits", 8)], "keeps nothing"),
    ([("weights.method", "none"), ("activations.bits", 16)], "keeps nothing"),
    ([("weights.bits", 4), ("weights.format", "fp4")], "has no 8 bits"), ([("allocation.listed.keep", ["9.down"])], "names nothing in this model"),
    ([("allocation.listed.kep", ["1"])], "did you mean 'allocation.listed.keep'"), ([("allocation", 3)], "is a table"),
])
def test_lists_without_sense_are_refused(changes, words):
    with pytest.raises(BadInput, match=words):
        finish(run(recipe(*changes)))


def test_a_recipe_with_a_list_is_the_same_from_every_door():
    from rotviz.pipeline.repeat import command_line

    wanted = recipe(("allocation.listed.keep", "1.down, 0"), ("allocation.listed.bits", 16))
    assert wanted.allocation_settings == Listed(("1.down", "0"), 16) and Recipe.from_dict(wanted.to_dict()) == wanted
    assert "allocation.listed.keep=1.down,0" in command_line(wanted) and "keeps 1.down, 0 at 16" in wanted.title
    assert recipe(("allocation.listed.keep", 1)).allocation_settings.keep == ("1",), "--set KEY=1 is a number"
    assert "listed" not in Recipe.from_dict({"allocation": {"method": "none", "listed": {"keep": ["1"]}}}).to_dict()["allocation"]


def test_everything_kept_in_float_is_the_float_model():
    result = finish(run(recipe(("allocation.listed.keep", ["0", "1"]), ("allocation.listed.bits", 16))))
    assert result.quantized.value == pytest.approx(result.reference.value, rel=1e-4) and result.divergence.kl_nats < 1e-6
    assert {row["bits"] for row in result.allocation["weights"]} == {16.0} and result.allocation["average"] == 16


@pytest.mark.parametrize("method", [name for name in QUANTIZERS if name != "none"])
def test_what_is_kept_loses_less_whatever_rounds_it(method):
    plain, kept = (finish(run(recipe(("weights.method", method), *more))) for more in ([("allocation.method", "none")], []))
    assert kept.divergence.kl_nats < plain.divergence.kl_nats
    errors = {(e["block"], e["role"]): (e["relative_mse"], e.get("bits")) for e in kept.weight_errors}
    assert errors[1, "down"][1] == 8 and errors[1, "up"][1] == 3 and errors[1, "down"][0] < errors[1, "up"][0] / 50


def test_inputs_are_kept_with_their_linears_or_not():
    def error(*changes):
        found = finish(run(recipe(("weights.method", "none"), ("activations.bits", 3), *changes)))
        return next(e["relative_mse"] for e in found.errors if (e["block"], e["site"]) == (1, "down_in")), found

    none, down = error(("allocation.method", "none"))[0], error()
    assert down[0] < none / 100 and down[1].divergence.kl_nats < error(("allocation.method", "none"))[1].divergence.kl_nats
    assert [r["input_bits"] for r in down[1].allocation["weights"] if r["path"] == "mlp.down_proj"] == [3, 8]
    with pytest.raises(BadInput, match="keeps nothing"):
        recipe(("weights.method", "none"), ("allocation.listed.inputs", False))


@pytest.mark.parametrize("family", ["tiny-phi3", "tiny-qwen2-moe", "tiny-opt"])
def test_every_kind_of_block_can_be_listed(family):
    result = finish(run(recipe(("model", family), ("allocation.listed.keep", ["0.down", "1.q"]))))
    kept = {(row["block"], row["path"]) for row in result.allocation["weights"] if row["bits"] == 8}
    assert {block for block, _ in kept} == {0, 1} and result.quantized.nan_windows == 0
