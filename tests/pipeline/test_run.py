"""A run from recipe to result, on tiny models: what it measures, that it repeats, resumes and stops."""

import json
import math

import pytest
import torch

from rotviz.device import resolve_device
from rotviz.errors import BadInput, BadText, Cancelled, OutOfRoom, RewriteBroken
from rotviz.models.loading import load
from rotviz.models.tiny import TINY
from rotviz.models.walk import forward as walk_forward
from rotviz.pipeline import run as pipeline
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.run import run

SMALL = {"model": "tiny-llama", "text": {"evaluation": "pydoc", "windows": 3, "length": 96}}
FLOAT = [("weights.method", "none"), ("activations.bits", 16)]


def recipe(*changes, **top):
    return Recipe.from_dict(with_changes({**SMALL, **top}, changes))


def finish(generator):
    events = []
    return events, pipeline.finish(generator, events.append)


@pytest.mark.parametrize("name", TINY)
def test_blockwise_perplexity_equals_whole_model(name):
    """DESIGN.md 3: relative difference under 1e-4 in float32, for every family."""
    _, result = finish(run(recipe(("rotation.method", "none"), *FLOAT, model=name)))
    loaded = load(name)
    from rotviz.texts import evaluation_windows

    windows = evaluation_windows("pydoc", loaded.tokenizer, 96, 3).tokens
    with torch.no_grad():
        logits = loaded.model(windows, use_cache=False).logits
    whole = math.exp(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten()).item())
    assert result.reference.value == pytest.approx(whole, rel=1e-4)
    assert result.quantized.value == pytest.approx(whole, rel=1e-4)
    assert result.reference.tokens == 3 * 95


@pytest.mark.parametrize("name", TINY)
def test_rotation_alone_changes_nothing_and_quantization_does(name):
    """With everything in float a rotated model is the same model; at 4 bits with KV cache it is another, and never NaN."""
    _, exact = finish(run(recipe(*FLOAT, model=name)))
    assert exact.quantized.value == pytest.approx(exact.reference.value, rel=1e-3)
    assert exact.divergence.kl_nats < 1e-4
    _, rounded = finish(run(recipe(("kv.bits", 4), model=name)))
    assert math.isfinite(rounded.quantized.value) and rounded.quantized.nan_windows == 0
    assert rounded.divergence.kl_nats > 10 * max(exact.divergence.kl_nats, 1e-6)
    sites = {e["site"] for e in rounded.errors}
    assert sites == {"attn_in", "o_in", "mlp_in", "down_in", "key", "value", "resid"}
    assert {e["block"] for e in rounded.errors} == {0, 1}


def test_same_recipe_same_numbers():
    one, two = (finish(run(recipe()))[1].to_dict() for _ in range(2))
    for result in (one, two):
        result.pop("seconds"), result.pop("peak_memory_mb")
    assert one == two


def test_a_kept_reference_changes_no_number_and_spares_the_float_model(tmp_path, monkeypatch):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    forwards = []
    monkeypatch.setattr(pipeline, "forward", lambda block, *rest: forwards.append(block) or walk_forward(block, *rest))
    changes = [("text.windows", 45)]  # three batches of at most 21 windows
    first, second = (finish(run(recipe(*changes)))[1].to_dict() for _ in range(2))
    assert len(list((tmp_path / "references").glob("*.safetensors"))) == 1
    for result in (first, second):
        result.pop("seconds"), result.pop("peak_memory_mb")
    assert first == second
    assert len(forwards) == 2 * (3 + 3 + 1) + 2 * (3 + 1 + 1)  # two blocks: quantized, float, isolated


def test_a_reference_follows_the_weights_and_not_the_name(tmp_path, monkeypatch):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    plain = finish(run(recipe()))[1].reference.value
    other = load("tiny-llama")
    other.model.model.layers[1].mlp.down_proj.weight.data *= 2
    assert finish(run(recipe(), loaded=other))[1].reference.value != plain
    for file in (tmp_path / "references").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:50])
    assert finish(run(recipe()))[1].reference.value == plain  # a broken file is computed again


def test_resume_without_the_reference_that_it_began_with(tmp_path, monkeypatch):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path / "home"))
    wanted = finish(run(recipe(("text.windows", 30))))[1].quantized.value
    generator = run(recipe(("text.windows", 30)), checkpoint=tmp_path)
    next(event for event in generator if event.stage == "walk")
    generator.close()
    next((tmp_path / "home" / "references").glob("*.safetensors")).unlink()
    assert finish(run(recipe(("text.windows", 30)), checkpoint=tmp_path))[1].quantized.value == wanted


def test_seed_matters_and_nothing_else_is_random():
    a = finish(run(recipe(seed=0)))[1].quantized.value
    b = finish(run(recipe(seed=1)))[1].quantized.value
    assert a != b


def test_events_run_from_zero_to_one_in_order():
    events, _ = finish(run(recipe()))
    fractions = [e.fraction for e in events]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert [e.block for e in events if e.stage == "walk"] == [0, 1]
    assert all(set(e.metrics) == {"accumulated", "isolated"} for e in events if e.stage == "walk")


def test_resume_gives_the_numbers_of_an_uninterrupted_run(tmp_path):
    wanted = finish(run(recipe()))[1].to_dict()
    generator = run(recipe(), checkpoint=tmp_path)
    for event in generator:
        if event.stage == "walk":
            break  # block 0 is done and on disk
    generator.close()
    events, result = finish(run(recipe(), checkpoint=tmp_path))
    assert "going on at block 1" in [e.message for e in events]
    got = result.to_dict()
    for plain in (wanted, got):
        plain.pop("seconds"), plain.pop("peak_memory_mb")
    assert got == wanted


def test_a_checkpoint_of_another_recipe_is_not_taken(tmp_path):
    finish(run(recipe(), checkpoint=tmp_path))
    events, _ = finish(run(recipe(seed=5), checkpoint=tmp_path))
    assert not any("going on" in e.message for e in events)


def test_a_broken_checkpoint_is_not_taken(tmp_path):
    finish(run(recipe(), checkpoint=tmp_path))
    file = tmp_path / "walk.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert finish(run(recipe(), checkpoint=tmp_path))[1].quantized.value > 0


def test_cancel_keeps_the_blocks_that_were_finished(tmp_path):
    walked = []
    with pytest.raises(Cancelled):
        pipeline.finish(run(recipe(), checkpoint=tmp_path, cancelled=lambda: bool(walked)), lambda e: walked.append(e) if e.stage == "walk" else None)
    assert [e.block for e in walked] == [0] and (tmp_path / "walk.safetensors").exists()


def test_a_rewrite_that_does_not_hold_stops_before_anything_is_quantized(monkeypatch):
    from rotviz.surgery import steps

    monkeypatch.setattr(steps, "rotate_values", lambda view, rotations: view.linear("v").set_weight(view.linear("v").weight * 2))
    monkeypatch.setattr(pipeline, "quantize_weights", lambda *_: pytest.fail("quantized after a broken proof"))
    with pytest.raises(RewriteBroken, match="step 'R2'"):
        finish(run(recipe()))


def test_out_of_memory_is_said_in_words(monkeypatch):
    monkeypatch.setattr(pipeline, "_walk_block", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(OutOfRoom, match="fewer windows"):
        finish(run(recipe()))


@pytest.mark.parametrize(("changes", "error", "words"), [
    ([("model", "nothing-like-it")], BadInput, "no model 'nothing-like-it'"),
    ([("weights.group", 7)], BadInput, "weights.group 7 does not divide"),
    ([("activations.group", 100)], BadInput, "activations.group 100"),
    ([("kv.bits", 4), ("kv.group", 48)], BadInput, "kv.group 48"),
    ([("text.length", 5000)], BadInput, "longer than this model reads"),
    ([("text.evaluation", "pydox")], BadInput, "pydoc"),
    ([("text.windows", 100000)], BadText, "needs"),
    ([("device", "cuda")], BadInput, "cpu"),
])
def test_bad_input_is_refused_before_the_walk(changes, error, words):
    if dict(changes).get("device") == "cuda" and resolve_device("auto").type == "cuda":
        pytest.skip("there is a GPU here, so cuda is no bad input")
    with pytest.raises(error, match=words):
        finish(run(recipe(*changes)))


def test_the_model_in_memory_is_not_changed():
    loaded = load("tiny-gemma2")
    before = {k: v.clone() for k, v in loaded.model.state_dict().items()}
    finish(run(recipe(model="tiny-gemma2"), loaded=loaded))
    assert all(torch.equal(before[k], v) for k, v in loaded.model.state_dict().items())


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen3-moe", "tiny-gemma2", "tiny-opt"])
def test_other_dtypes(name, dtype):
    _, result = finish(run(recipe(("dtype", dtype), model=name)))
    assert math.isfinite(result.quantized.value)
    assert all(p.holds for p in result.proofs)


def test_the_promised_fields_and_plain_json():
    plain = finish(run(recipe()))[1].to_dict()
    json.dumps(plain, allow_nan=False)
    assert {"recipe", "perplexity", "divergence", "errors", "seconds", "peak_memory_mb"} <= set(plain)
    for side in ("reference", "quantized"):
        assert {"value", "stderr", "tokens", "protocol"} <= set(plain["perplexity"][side])
    assert {"block", "site", "relative_mse"} <= set(plain["errors"][0])
    assert plain["perplexity"]["quantized"]["stderr"] > 0
