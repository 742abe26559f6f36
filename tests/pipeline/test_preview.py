"""Estimates from gradients: the formulas on what really flows, files kept, and the budget that is made of them."""

import math

import pytest
import torch
from torch import nn

from rotviz.allocation.listed import Listed
from rotviz.errors import BadInput, Cancelled
from rotviz.models.families import family_of
from rotviz.models.family import block_views
from rotviz.numerics.grids import fake_quantize
from rotviz.numerics.statistics import rank_correlation
from rotviz.pipeline import preview as module
from rotviz.pipeline.budget import (
    STRATEGIES,
    Calibration,
    allocate,
    as_list,
    average_of,
    calibrated,
    increase,
    listed_recipe,
    mended_recipe,
    predict,
    size_mb,
    units_of_preview,
)
from rotviz.pipeline.prepare import calibration_tokens, prepare, rotation_plan
from rotviz.pipeline.preview import estimates, preview, preview_path
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.run import finish, run
from rotviz.quantizers.block import linear_paths
from rotviz.surgery.whole import rewrite_model

SMALL = {"model": "tiny-llama", "text": {"evaluation": "pydoc", "calibration": "pydoc", "samples": 2, "length": 48, "windows": 2},
         "weights": {"clip": "none"}}


def recipe(*changes):
    return Recipe.from_dict(with_changes(SMALL, changes))


@pytest.fixture(scope="module")
def found():
    return preview(recipe())


def flows(wanted: Recipe) -> tuple[dict, float]:
    """Inputs x [T, D] and gradients g [T, N] of every linear over the windows, by torch.autograd.grad and nothing of ours."""
    prepared = prepare(wanted)
    model = rewrite_model(prepared.loaded.model, rotation_plan(wanted, prepared.sizes)).requires_grad_(True)
    names, kept, losses = {}, {}, 0.0
    for view in block_views(model, family_of(model)):
        names |= {m: (view.index, path) for path, (m, _) in linear_paths(view).items()}
    for window in calibration_tokens(prepared):
        seen = {}
        handles = [m.register_forward_hook(lambda m, args, out, seen=seen: seen.__setitem__(m, (args[0], out))) for m in names]
        loss = nn.functional.cross_entropy(model(input_ids=window[None]).logits[0, :-1], window[1:], reduction="sum")
        gradients = torch.autograd.grad(loss, [out for _, out in seen.values()])
        for handle in handles:
            handle.remove()
        for (m, (x, _)), g in zip(seen.items(), gradients):
            kept.setdefault(names[m], []).append((m.weight.detach(), x.detach()[0].double(), g[0].double()))
        losses += float(loss.detach())
    return kept, losses


def test_costs_are_the_formulas(found):
    kept, losses = flows(recipe())
    assert found.loss == pytest.approx(losses / (2 * 47), rel=1e-5) and found.tokens == 94
    assert len(found.linears) == len(kept) == 14
    for one in found.linears:
        parts = kept[one.block, one.path]
        weight = parts[0][0]
        rows = torch.arange(0, len(weight), max(1, len(weight) // module.ROWS))[:module.ROWS]
        square = sum(g[:, rows].square().T @ x.square() for _, x, g in parts) / 94
        spec = recipe(("weights.bits", 3)).weights.spec()
        error = (weight[rows] - fake_quantize(weight[rows], spec)).double()
        wanted = 0.5 * float((square * error.square()).sum()) * len(weight) / len(rows)
        assert found.weight_cost(one, 3) == pytest.approx(wanted, rel=1e-4)
        entering = recipe(("activations.bits", 4)).activations.spec()
        lost = sum(0.5 * float(((g @ weight.double()) * (x - fake_quantize(x.float(), entering).double())).square().sum()) for _, x, g in parts) / 94
        assert found.input_cost(one, 4) == pytest.approx(lost, rel=1e-3)
        assert list(one.weights) == sorted(one.weights, reverse=True) and found.weight_cost(one, 16) == found.input_cost(one, 16) == 0


def test_it_is_kept_by_all_that_decides_it(found, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "prepare", lambda *_: pytest.fail("made again"))
    assert preview(recipe(("weights.bits", 3), ("activations.bits", 16), ("text.windows", 5))) == found
    others = [("seed", 1), ("weights.clip", "mse"), ("rotation.method", "none"), ("text.length", 32), ("activations.symmetric", True),
              ("weights.bits", 5)]
    assert len({preview_path(recipe(change)) for change in others} | {preview_path(recipe())}) == len(others) + 1
    paths = set()
    for words in ("one", "one and two"):  # a text and a rotation are more than their names
        for key, file in (("text.calibration", tmp_path / "t.txt"), ("rotation.load", tmp_path / "r.safetensors")):
            file.write_text(words)
            paths.add(preview_path(recipe((key, str(file)))))
        paths.add(preview_path(recipe(("rotation.method", "dartquant"), ("rotation.dartquant.start", str(tmp_path / "r.safetensors")))))
    assert len(paths) == 6
    preview_path(recipe()).write_text("{")
    with pytest.raises(BaseException, match="made again"):
        preview(recipe())
    monkeypatch.undo()
    assert preview(recipe()) == found


def test_estimates_add_up_and_blocks_are_sums_of_modules(found):
    wanted = recipe(("weights.bits", 3), ("activations.bits", 4))
    modules, blocks = estimates(found, wanted, "module"), estimates(found, wanted, "block")
    assert [b["name"] for b in blocks] == ["0", "1"] and {m["name"] for m in modules} >= {"0.q", "1.down"}
    for block in blocks:
        assert block["estimate"] == pytest.approx(sum(m["estimate"] for m in modules if m["block"] == block["block"]))
        assert block["estimate"] == pytest.approx(block["weights"] + block["inputs"]) and block["weights"] > 0 < block["inputs"]
    assert all(row["inputs"] == 0 for row in estimates(found, recipe(("activations.bits", 16)), "block"))


def test_it_can_be_cancelled_and_tells_how_far_it_is():
    said = []
    with pytest.raises(Cancelled):
        preview(recipe(("seed", 77)), progress=lambda share, words: said.append(share), cancelled=lambda: len(said) > 1)
    assert said == sorted(said) and not preview_path(recipe(("seed", 77))).exists()


@pytest.mark.parametrize("family", ["tiny-phi3", "tiny-qwen2-moe", "tiny-opt"])
def test_every_kind_of_block_has_a_preview(family):
    wanted = recipe(("model", family), ("text.samples", 1))
    found = preview(wanted)
    units = units_of_preview(found)
    assert len(set(units.names)) == len(units.names)
    assert all(math.isfinite(v) and v >= 0 for one in found.linears for v in (*one.weights, *one.inputs))
    total = sum(p.numel() for p in prepare(wanted).loaded.model.parameters())
    assert found.other_elements + int(units.numbers.sum()) == total


# The budget


def test_strategies_meet_the_budget_and_importance_predicts_least(found):
    units = units_of_preview(found)
    made = {name: predict(found, units, recipe(), name, 3.5, Calibration(), found.loss) for name in STRATEGIES}
    assert {"importance", "uniform", "random", "magnitude"} == set(made) and all(3.2 < p.average <= 3.5 for p in made.values())
    assert min(made, key=lambda name: made[name].increase) == "importance"
    one = made["importance"]
    with_inputs = recipe(("activations.bits", 4))
    assert one.perplexity == pytest.approx(math.exp(found.loss + increase(found, one.bits, with_inputs.activations.bits)))
    sizes = [size_mb(found, allocate(units, "uniform", budget), 0, True) for budget in (2, 4, 8)]
    assert sizes == sorted(sizes)
    elements, outputs = sum(o.elements for o in found.linears), sum(o.outputs for o in found.linears)
    assert sizes[1] == pytest.approx((elements / 2 + 2 * outputs + 2 * found.other_elements) / 1e6)
    with pytest.raises(BadInput, match="cannot be met"):
        allocate(units, "importance", 1.5)


def test_what_is_shown_is_what_is_rounded(found):
    """Bits as a list and back; and a run of the list has exactly these bits, whatever its shape."""
    units = units_of_preview(found)
    bits = allocate(units, "importance", 3.7)
    base, keep = as_list(bits)
    assert [max(base, b) for b in Listed(keep).kept(units.names)] == [bits[name] for name in units.names]
    assert as_list(dict.fromkeys(bits, 4)) == (4, ())
    result = finish(run(listed_recipe(recipe(), bits)))
    assert {f"{r['block']}.{r['role']}": r["bits"] for r in result.weight_errors} == pytest.approx(bits)
    assert result.allocation["average"] == pytest.approx(average_of(units, bits))
    assert {row["input_bits"] for row in result.allocation["weights"]} == {recipe().activations.bits}


def test_stored_runs_calibrate_it_and_say_how_wrong_it_was(found):
    wanted = recipe(("activations.bits", 16))

    def stored(factor, *changes):
        theirs = with_changes(wanted.to_dict(), changes)
        bits = dict.fromkeys(units_of_preview(found).names, theirs["weights"]["bits"])
        ppl = math.exp(found.loss + factor * increase(found, bits))
        return f"run-{factor}", "a run", {"recipe": theirs, "allocation": None, "perplexity": {"quantized": {"value": ppl},
                                                                                               "reference": {"value": math.exp(found.loss)}}}

    assert "no run has checked" in calibrated(found, wanted, []).words
    one = calibrated(found, wanted, [stored(2.0, ("weights.bits", 3))])
    assert one.factor == pytest.approx(2) and math.isnan(one.error) and "error is not known" in one.words
    two = calibrated(found, wanted, [stored(2.0, ("weights.bits", 3)), stored(8.0, ("weights.bits", 4))])
    assert two.factor == pytest.approx(4) and two.error == pytest.approx(4) and two.runs[1].bits == 4
    run_id, title, result = stored(2.0, ("weights.bits", 3))
    rows = [{"block": one.block, "path": one.path, "bits": 3.0} for one in found.linears]
    for unit, count in (("tensor", 1), ("channel", 0)):  # channels of other bits may average to a whole number
        assert len(calibrated(found, wanted, [(run_id, title, result | {"allocation": {"unit": unit, "weights": rows}})]).runs) == count
    others = [("rotation.method", "none"), ("weights.method", "gptq"), ("kv.bits", 4), ("activations.bits", 8), ("seed", 1), ("weights.group", 16)]
    assert not calibrated(found, wanted, [stored(2.0, change) for change in others]).runs


def test_a_real_run_calibrates_it(found):
    wanted = recipe(("activations.bits", 16), ("weights.bits", 3))
    mixed = finish(run(listed_recipe(wanted, allocate(units_of_preview(found), "importance", 3.5)))).to_dict()
    uniform = finish(run(wanted)).to_dict()
    made = calibrated(found, wanted, [("a", "mixed", mixed), ("b", "uniform", uniform)])
    counted = {"a": mixed, "b": uniform}
    counted = {name for name, r in counted.items() if r["perplexity"]["quantized"]["value"] > r["perplexity"]["reference"]["value"]}
    assert counted and {m.run_id for m in made.runs} == counted, "a random model may gain by rounding, which calibrates nothing"
    for one in made.runs:
        ppl = {"a": mixed, "b": uniform}[one.run_id]["perplexity"]
        assert one.measured == pytest.approx(math.log(ppl["quantized"]["value"] / ppl["reference"]["value"]))
        assert one.bits == (pytest.approx(3.5, abs=0.2) if one.run_id == "a" else 3) and one.factor * one.predicted == pytest.approx(one.measured)


def test_the_mend_keeps_the_recipe_and_drops_the_question():
    mended = mended_recipe(recipe(("ablation.unit", "block")), ["1", "0.down"], 16)
    assert mended.ablation.unit == "none" and mended.allocation_settings == Listed(("1", "0.down"), 16)
    assert mended.text == recipe().text
    again = mended_recipe(mended, ["0.down", "0.q"], 8)
    assert again.allocation_settings == Listed(("1=16", "0.down=16", "0.q"), 8), "what is kept stays kept"
    weights_alone = recipe(("allocation.method", "listed"), ("allocation.listed.keep", ["0"]), ("allocation.listed.inputs", False))
    assert mended_recipe(weights_alone, ["1"], 8).allocation_settings == Listed(("0", "1"), 8, False)
    with pytest.raises(BadInput, match="shares out its bits"):
        mended_recipe(recipe(("allocation.method", "importance")), ["1"], 8)


def test_rank_correlation():
    import numpy as np

    assert rank_correlation(np.arange(5.0), np.exp(np.arange(5.0))) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 2, 3]), np.array([4.0, 3, 3, 1])) == pytest.approx(-1)
    a = np.array([1.0, 1, 2, 5, 3])
    b = np.array([2.0, 4, 1, 9, 3])
    assert rank_correlation(a, b) == pytest.approx(np.corrcoef([1.5, 1.5, 3, 5, 4], [2, 4, 1, 5, 3])[0, 1])
    assert math.isnan(rank_correlation(np.ones(5), np.arange(5.0)))
