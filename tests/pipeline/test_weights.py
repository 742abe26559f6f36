"""Calibrated weights, scaling and mixed precision in a run: that they help, resume, stop, repeat, and are refused where they make no sense."""

import json
import math
from pydoc_data.topics import topics

import pytest
import torch

from rotviz.errors import BadInput, Cancelled
from rotviz.pipeline import run as pipeline
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.run import run
from rotviz.pipeline.weights import collected_notes
from rotviz.quantizers import QUANTIZERS, is_calibrated

SMALL = {"model": "tiny-llama", "text": {"windows": 2, "length": 64, "samples": 4},
         "weights": {"bits": 3, "omniquant": {"epochs": 3}, "rounding": {"iterations": 20, "batch": 2}}, "activations": {"bits": 16}}
CALIBRATED = [name for name in QUANTIZERS if is_calibrated(QUANTIZERS[name])]


@pytest.fixture(autouse=True, scope="module")
def small_text(tmp_path_factory):
    """A text of a few kilobytes: most of a tiny run is reading."""
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(topics["assignment"])
    SMALL["text"] |= {"evaluation": str(path), "calibration": str(path)}


def recipe(*changes, **top):
    return Recipe.from_dict(with_changes({**SMALL, **top}, changes))


def finish(generator):
    events = []
    return events, pipeline.finish(generator, events.append)


@pytest.mark.parametrize("rotation", ["none", "hadamard"])
@pytest.mark.parametrize("method", CALIBRATED)
def test_calibrated_weights_come_nearer_to_the_float_model(method, rotation):
    changes = [("rotation.method", rotation)]
    rounded = finish(run(recipe(*changes)))[1]
    events, result = finish(run(recipe(*changes, ("weights.method", method))))
    assert result.divergence.kl_nats < 0.9 * rounded.divergence.kl_nats
    assert result.reference.value == pytest.approx(rounded.reference.value, rel=1e-6)
    assert {entry["block"] for entry in result.learned} == {0, 1} and result.learned[0]["metrics"]
    assert result.seconds["weights"] > 0 and len(result.weight_errors) == 14
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions) and any(event.stage == "weights" for event in events)
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("family", ["tiny-opt", "tiny-gemma2", "tiny-phi3", "tiny-qwen2-moe"])
@pytest.mark.parametrize("method", CALIBRATED)
def test_every_family_runs_with_everything_rounded(method, family):
    result = finish(run(recipe(("weights.method", method), ("activations.bits", 4), ("kv.bits", 4), ("text.samples", 2), ("text.length", 32),
                               ("weights.omniquant.epochs", 1), ("weights.rounding.iterations", 2), model=family)))[1]
    assert math.isfinite(result.quantized.value) and result.quantized.nan_windows == 0


@pytest.mark.parametrize("method", CALIBRATED)
def test_a_stopped_run_goes_on_to_the_same_numbers(method, tmp_path):
    wanted = recipe(("weights.method", method))
    whole = finish(run(wanted))[1]
    walked = []
    with pytest.raises(Cancelled):
        pipeline.finish(run(wanted, checkpoint=tmp_path, cancelled=lambda: bool(walked)), lambda e: walked.append(e) if e.stage == "walk" else None)
    resumed = finish(run(wanted, checkpoint=tmp_path))[1]
    assert resumed.quantized.by_window == whole.quantized.by_window
    assert resumed.learned == whole.learned and resumed.weight_errors == whole.weight_errors


def test_plain_rounding_reads_no_calibration_text():
    assert finish(run(recipe(("text.calibration", "no-such-file.txt"))))[1].learned == ()
    with pytest.raises(BadInput, match="no-such-file"):
        finish(run(recipe(("text.calibration", "no-such-file.txt"), ("weights.method", "gptq"))))


@pytest.mark.parametrize("rotation", ["none", "hadamard"])
def test_smoothquant_alone_changes_nothing_and_helps_rounded_activations(rotation):
    base = [("weights.method", "none"), ("rotation.method", rotation)]
    exact = finish(run(recipe(*base, ("scaling.method", "smoothquant"))))[1]
    assert exact.quantized.value == pytest.approx(exact.reference.value, rel=1e-3) and exact.divergence.kl_nats < 1e-4
    if rotation == "none":
        plain, smooth = (finish(run(recipe(*base, ("activations.bits", 6), ("scaling.method", method))))[1] for method in ("none", "smoothquant"))
        assert smooth.divergence.kl_nats < plain.divergence.kl_nats


@pytest.mark.parametrize("unit", ["tensor", "channel"])
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_mixed_precision_meets_its_budget(method, unit):
    result = finish(run(recipe(("weights.method", method), ("allocation.method", "importance"), ("allocation.unit", unit),
                               ("allocation.budget", 3.5))))[1]
    table = result.allocation
    elements = sum(row["elements"] for row in table["weights"])
    spent = sum(row["elements"] * row["bits"] for row in table["weights"]) / elements
    assert spent == pytest.approx(table["average"]) and 3.3 < table["average"] <= 3.5
    assert len({row["bits"] for row in table["weights"]}) > 1
    assert all(row["costs"] == sorted(row["costs"], reverse=True) for row in table["weights"])
    assert [row["bits"] for row in table["weights"]] == pytest.approx([error["bits"] for error in result.weight_errors])
    assert Recipe.from_dict(result.recipe).bits_title == "W3.5A16KV16"


def test_importance_beats_lots_at_equal_bits():
    def divergence(method, seed=0):
        return finish(run(recipe(("allocation.method", method), ("allocation.unit", "channel"), seed=seed)))[1].divergence.kl_nats

    assert divergence("importance") < min(divergence("random", seed) for seed in range(2))


def test_importance_weighs_the_loss():
    result = finish(run(recipe(("rotation.method", "none"), ("weights.method", "rounding"), ("weights.rounding.loss", "importance"),
                               ("weights.rounding.iterations", 40))))[1]
    rounded = finish(run(recipe(("rotation.method", "none"))))[1]
    assert result.seconds["weigh"] > 0 and result.allocation is None
    assert result.divergence.kl_nats < rounded.divergence.kl_nats


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_models_end_weighs_the_loss(dtype):
    """loss = kl in a whole run, under a rotation: what the head reads from each block comes nearer to the float model's."""
    result = finish(run(recipe(("weights.method", "rounding"), ("weights.rounding.loss", "kl"), ("weights.rounding.iterations", 40),
                               ("dtype", dtype))))[1]
    rounded = finish(run(recipe(("dtype", dtype))))[1]
    assert all(entry["metrics"]["loss_after"] < entry["metrics"]["loss_before"] for entry in result.learned)
    assert result.divergence.kl_nats < rounded.divergence.kl_nats


@pytest.mark.parametrize(("changes", "words"), [
    ([("weights.format", "fp8")], "8 bits, not 3"),
    ([("weights.format", "fp4"), ("weights.bits", 4), ("weights.symmetric", False)], "symmetric = true"),
    ([("activations.format", "fp8"), ("activations.bits", 8)], "activations: .*symmetric = true"),
    ([("weights.format", "nvfp4"), ("weights.bits", 4), ("weights.method", "rounding")], "even and power grids"),
    ([("weights.format", "mxfp4"), ("weights.bits", 4), ("weights.method", "omniquant")], "no clip to learn"),
    ([("weights.format", "mxfp4"), ("weights.bits", 4), ("weights.group", 64)], "blocks of its own"),
    ([("allocation.method", "importance"), ("weights.method", "none")], "bits of quantized weights"),
    ([("allocation.method", "importance"), ("weights.format", "fp4"), ("weights.bits", 4)], "nothing to allocate"),
    ([("allocation.method", "uniform"), ("allocation.budget", 1.5)], "cannot be met"),
    ([("allocation.method", "best")], "choose from none, "),
    ([("activations.format", "power")], "choose from int, int_min, fp8"),
])
def test_combinations_without_sense_are_refused(changes, words):
    with pytest.raises(BadInput, match=words):
        recipe(*changes)


def test_equal_notes_stand_together():
    learned = [{"block": b, "notes": ["a", "b"] if b == 3 else ["a"], "metrics": {}} for b in (0, 1, 2, 3, 5)]
    assert collected_notes(learned) == ("blocks 0-3, 5: a", "block 3: b")


def test_float_and_data_free_runs_are_what_they_were():
    """The same numbers as a walk written out by hand: rewrite, round each weight, push."""
    from rotviz.models.loading import load
    from rotviz.models.walk import BlockSource, forward
    from rotviz.numerics.grids import fake_quantize
    from rotviz.pipeline.prepare import prepare, windows_for

    wanted = recipe(("rotation.method", "none"))
    prepared = prepare(wanted)
    source = BlockSource(load("tiny-llama").model)
    tokens = windows_for(prepared).tokens
    entry = source.ends.entry(tokens)
    hidden = entry.hidden
    for index in range(len(source)):
        view = source.owned(index)
        for module in view.quantized_modules():
            module.weight.data = fake_quantize(module.weight.data, wanted.weights.spec())
        hidden = forward(view.block, hidden, entry.arguments[index])
    logits = source.ends.finish(hidden)
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).double(), tokens[:, 1:].flatten())
    assert finish(run(wanted))[1].quantized.value == pytest.approx(math.exp(float(nll)), rel=1e-5)
