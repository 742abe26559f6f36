"""One at a time: equal to whole models with one unit swapped, whatever the family; resumable, cancellable, refused where it means nothing."""

import json
import math
from pydoc_data.topics import topics

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rotviz.errors import BadInput, Cancelled, OutOfRoom
from rotviz.models.families import family_of
from rotviz.models.family import block_views
from rotviz.numerics.grids import fake_quantize
from rotviz.pipeline import run as pipeline
from rotviz.pipeline.ablation import cost_of, measure_pace
from rotviz.pipeline.checkpoint import FILE, load_state, save_state
from rotviz.pipeline.prepare import prepare, rotation_plan, windows_for
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.run import finish, run
from rotviz.quantizers.block import linear_paths
from rotviz.surgery.online import quantize_activations, quantize_cache
from rotviz.surgery.whole import rewrite_model

SMALL = {"model": "tiny-llama", "text": {"windows": 2, "length": 48, "samples": 2}, "weights": {"bits": 3, "clip": "none"},
         "activations": {"bits": 4}, "kv": {"bits": 4}, "ablation": {"unit": "module"}}


@pytest.fixture(autouse=True, scope="module")
def small_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(topics["assignment"])
    SMALL["text"] |= {"evaluation": str(path), "calibration": str(path)}


def recipe(*changes):
    return Recipe.from_dict(with_changes(SMALL, changes))


def whole_model_loss(wanted: Recipe, quantized: set[str]) -> list[float]:
    """Mean -log p by window of a whole rewritten model in which these units ("1.down", "0.kv") are quantized; plain transformers calls."""
    prepared = prepare(wanted)
    model = rewrite_model(prepared.source.model, rotation_plan(wanted, prepared.sizes))
    for view in block_views(model, family_of(model)):
        bits = {}
        for path, (module, roles) in linear_paths(view).items():
            if f"{view.index}.{'+'.join(roles)}" in quantized:
                module.weight = nn.Parameter(fake_quantize(module.weight.data, wanted.weights.spec()), requires_grad=False)
            else:
                bits[path] = 16
        quantize_activations(view, wanted.activations.spec(), bits=bits)
        if f"{view.index}.kv" in quantized:
            quantize_cache(view, wanted.kv.spec())
    with torch.no_grad():
        return [float(nn.functional.cross_entropy(model(input_ids=w[None]).logits[0, :-1].double(), w[1:])) for w in windows_for(prepared).tokens]


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize("family", ["tiny-llama", "tiny-opt", "tiny-gemma2", "tiny-phi3", "tiny-qwen3-moe"])
def test_modules_one_at_a_time_equal_whole_models(family):
    wanted = recipe(("model", family), ("dtype", "float64"))  # no rounding hangs on the last digit of a float32
    found = finish(run(wanted)).ablation
    names = {row["name"] for row in found["units"]}
    assert {"0.down", "1.down", "0.kv"} <= names and len(names) == len(found["units"])
    plain, every = mean(whole_model_loss(wanted, set())), mean(whole_model_loss(wanted, names))
    assert (found["loss_float"], found["loss_quantized"]) == pytest.approx((plain, every), rel=1e-6)
    for name in ("0.down", "1.kv", next(n for n in sorted(names) if n.startswith("0.q"))):
        row = next(r for r in found["units"] if r["name"] == name)
        assert row["only"]["loss"] == pytest.approx(mean(whole_model_loss(wanted, {name})), rel=1e-6)
        assert row["all_but"]["loss"] == pytest.approx(mean(whole_model_loss(wanted, names - {name})), rel=1e-6)
        assert row["only"]["loss_increase"] == pytest.approx(row["only"]["loss"] - found["loss_float"], abs=1e-9)
        assert row["all_but"]["loss_saved"] == pytest.approx(found["loss_quantized"] - row["all_but"]["loss"], abs=1e-9)
        assert row["only"]["kl_nats"] > 0 and 0 <= row["only"]["same_top"] <= 1


def test_blocks_one_at_a_time_equal_whole_models():
    wanted = recipe(("ablation.unit", "block"), ("rotation.method", "none"))
    found = finish(run(wanted)).ablation
    assert [row["name"] for row in found["units"]] == ["0", "1"]
    parts = {b: {f"{b}.{role}" for role in ("q", "k", "v", "o", "gate", "up", "down", "kv")} for b in (0, 1)}
    for block, row in enumerate(found["units"]):
        by_window = whole_model_loss(wanted, parts[block])
        assert row["only"]["loss"] == pytest.approx(mean(by_window), rel=1e-4)
        assert row["all_but"]["loss"] == pytest.approx(mean(whole_model_loss(wanted, parts[1 - block])), rel=1e-4)
        changes = [a - b for a, b in zip(by_window, whole_model_loss(wanted, set()))]
        assert row["only"]["stderr"] == pytest.approx(abs(changes[0] - changes[1]) / 2, rel=1e-2), "paired by window"
    # two blocks: without one only the other is left
    assert found["units"][0]["all_but"]["loss"] == pytest.approx(found["units"][1]["only"]["loss"], rel=1e-4)


def test_it_changes_no_other_number_and_no_other_recipe():
    with_it, without = finish(run(recipe())), finish(run(recipe(("ablation.unit", "none"))))
    assert with_it.quantized.by_window == without.quantized.by_window and with_it.errors == without.errors
    assert without.ablation is None and "ablation" not in without.to_dict() and "ablation" not in without.recipe
    assert Recipe.from_dict({}).fingerprint == Recipe.from_dict({"ablation": {"kind": "only"}}).fingerprint
    json.dumps(with_it.to_dict(), allow_nan=False)
    assert "one module at a time" in recipe().title


@pytest.mark.parametrize("kind", ["only", "all_but"])
def test_one_direction_is_half_of_both(kind):
    both, one = finish(run(recipe())).ablation, finish(run(recipe(("ablation.kind", kind)))).ablation
    assert [row[kind] for row in one["units"]] == [row[kind] for row in both["units"]] and len(one["units"][0]) == 5


@pytest.mark.parametrize(("method", "unit"), [("gptq", "module"), ("omniquant", "block"), ("rounding", "module")])
def test_calibrated_methods_and_scales_go_along(method, unit):
    quick = [("weights.omniquant.epochs", 1), ("weights.rounding.iterations", 2), ("weights.rounding.batch", 2)]
    result = finish(run(recipe(("weights.method", method), ("ablation.unit", unit), ("scaling.method", "smoothquant"), *quick)))
    assert all(math.isfinite(row[kind]["loss"]) for row in result.ablation["units"] for kind in ("only", "all_but"))


def test_a_stopped_ablation_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "SAVE_SECONDS", 0.0)
    whole = finish(run(recipe()))
    walked = []
    with pytest.raises(Cancelled):
        finish(run(recipe(), checkpoint=tmp_path, cancelled=lambda: bool(walked)), lambda e: walked.append(e) if e.stage == "walk" else None)
    assert [e.block for e in walked] == [0]
    events = []
    resumed = finish(run(recipe(), checkpoint=tmp_path), events.append)
    assert "going on at block 1" in [e.message for e in events]
    assert resumed.ablation["units"] == whole.ablation["units"]


def test_scoring_goes_on_after_the_last_block_which_is_always_saved(tmp_path):
    whole, scored = finish(run(recipe())), []
    with pytest.raises(Cancelled):
        finish(run(recipe(), checkpoint=tmp_path, cancelled=lambda: bool(scored)), lambda e: scored.append(e) if "scoring" in e.message else None)
    state = load_state(tmp_path, recipe().fingerprint)
    assert state.block == 2 and [len(part) for part in state.only] == [len(part) for part in state.all_but] == [8, 8]
    events = []
    resumed = finish(run(recipe(), checkpoint=tmp_path), events.append)
    assert "going on at block 2" in [e.message for e in events] and resumed.ablation["units"] == whole.ablation["units"]


def test_states_of_older_versions(tmp_path):
    """One tensor held all streams of a direction; before that nothing counted massive tokens, which a resumed walk would count too few of."""
    streams = {name: torch.rand(2, 3, 4) for name in ("reference", "quantized")} | {"massive": torch.zeros(2, 3, dtype=torch.uint8)}
    only = torch.rand(5, 2, 3, 4)
    header = {"fingerprint": "f", "state": json.dumps({"block": 1, "errors": [], "units": [{}] * 5})}
    save_file(streams | {"only": only}, tmp_path / FILE, metadata=header)
    found = load_state(tmp_path, "f")
    assert len(found.only) == 1 and torch.equal(found.only[0], only) and found.all_but == []
    save_state(tmp_path, "f", found)
    assert torch.equal(load_state(tmp_path, "f").only[0], only)
    del streams["massive"]
    save_file(streams, tmp_path / FILE, metadata=header)
    assert load_state(tmp_path, "f") is None


def test_no_room_for_the_streams_is_a_note_and_no_end(tmp_path, monkeypatch):
    def full(*_):
        raise OutOfRoom("the disk is full")

    monkeypatch.setattr(pipeline, "save_state", full)
    assert any("the disk is full" in note for note in finish(run(recipe(), checkpoint=tmp_path)).notes)
    with pytest.raises(OutOfRoom):
        finish(run(recipe(("ablation.unit", "none")), checkpoint=tmp_path))


def test_events_tell_how_far_it_is():
    events = []
    finish(run(recipe()), events.append)
    fractions = [e.fraction for e in events]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert {"only 0.down", "all but 1.kv"} <= {e.message.partition(": ")[2] for e in events if e.stage == "ablate"}


@pytest.mark.parametrize(("changes", "words"), [
    ([("weights.method", "none"), ("activations.bits", 16), ("kv.bits", 16)], "needs something that is quantized"),
    ([("ablation.unit", "layer")], "none, block, module"), ([("ablation.kind", "one")], "both, only, all_but"),
    ([("weights.method", "omniquant"), ("weights.omniquant.epochs", 1)], "several modules share"),
])
def test_what_cannot_be_done_is_refused(changes, words):
    with pytest.raises(BadInput, match=words):
        finish(run(recipe(*changes)))


def test_the_cost_is_known_before_and_is_what_is_done(monkeypatch):
    from rotviz.pipeline import ablation

    pushed, scored = [], []
    forward, score = ablation.forward, ablation.score
    monkeypatch.setattr(ablation, "forward", lambda block, hidden, arguments: pushed.append(len(hidden)) or forward(block, hidden, arguments))
    monkeypatch.setattr(ablation, "score", lambda *a: scored.append(1) or score(*a))
    finish(run(recipe()))
    cost = cost_of(recipe(), blocks=2, modules=7, width=80, windows=2)
    assert sum(pushed) == cost.passes * 2 * 2 and len(scored) == cost.heads * 2  # 2 blocks, 2 windows
    assert cost.units == 16 and cost.stream_mb == pytest.approx(2 * 16 * 2 * 48 * 80 * 4 / 1e6)
    pace = measure_pace(prepare(recipe()), 48)
    assert pace.seconds(cost, recipe(), 2, 2) > 0 and min(pace.block, pace.quantized_block, pace.head) > 0
