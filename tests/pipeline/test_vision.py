"""Vision models through the whole pipeline: what is measured, that every method works, and the papers' order on a model that learned something."""

import json
import math

import pytest
import torch
from PIL import Image
from vision_models import save_short_training

from rotviz.errors import BadInput, Cancelled
from rotviz.evaluation.classification import classification
from rotviz.models.loading import load
from rotviz.models.tiny_vision import TINY_VISION
from rotviz.pipeline.examine import examine
from rotviz.pipeline.inputs import calibration_inputs, evaluation_inputs
from rotviz.pipeline.prepare import prepare
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.run import finish, run
from rotviz.types import Slot

SMALL = {"model": "tiny-vit", "images": {"count": 100, "samples": 8}}
FLOAT = [("weights.method", "none"), ("activations.bits", 16)]
QUICK = {"rounding": [("weights.rounding.iterations", 10)], "omniquant": [("weights.omniquant.epochs", 1)]}


def recipe(*changes, **top):
    return Recipe.from_dict(with_changes({**SMALL, **top}, changes))


def result(*changes, **top):
    return finish(run(recipe(*changes, **top)))


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> str:
    """A folder with a classifier that learned something."""
    return str(save_short_training(tmp_path_factory.mktemp("trained") / "model"))


@pytest.mark.parametrize("name", TINY_VISION)
def test_float_and_rotated_models_agree_with_themselves_and_with_the_whole_model(name):
    found = result(*FLOAT, model=name)
    assert found.reference is None and found.quantized is None
    assert found.classification.agreement.value == 1 and found.divergence.kl_nats < 1e-5 and found.classification.images == 100
    assert {p.name for p in found.proofs} >= {"center", "R1", "R2", "R3", "R4"}
    prepared = prepare(recipe(model=name))
    inputs = evaluation_inputs(prepared)
    with torch.no_grad():
        top = prepared.loaded.model(pixel_values=inputs.values).logits.argmax(-1)
    assert found.classification.accuracy.reference.value == pytest.approx(float((top == inputs.labels).double().mean()))


@pytest.mark.parametrize("method", ["rtn", "gptq", "omniquant", "rounding"])
@pytest.mark.parametrize("rotation", ["none", "hadamard"])
def test_every_weight_method_at_every_site(method, rotation):
    found = result(("weights.method", method), ("rotation.method", rotation), ("kv.bits", 4), *QUICK.get(method, []))
    assert 0 < found.classification.agreement.value <= 1 and found.divergence.kl_nats > 1e-4 and found.classification.nan_images == 0
    assert {e["site"] for e in found.errors} == {"attn_in", "o_in", "mlp_in", "down_in", "key", "value", "resid"}
    assert {e["role"] for e in found.weight_errors} == {"q", "k", "v", "o", "up", "down"}
    assert all(e["isolated"] is not None and e["isolated"] > 0 for e in found.errors if e["site"] == "resid")


@pytest.mark.parametrize("allocation", ["importance", "magnitude"])
def test_bits_are_shared_out(allocation):
    found = result(("allocation.method", allocation), ("weights.bits", 3))
    assert found.allocation["average"] <= 3 and len({w["bits"] for w in found.allocation["weights"]}) > 1


def test_importance_takes_labels_or_what_the_model_believes(tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    for i in range(4):
        Image.effect_noise((40, 40), 80 + i).convert("RGB").save(folder / f"{i}.png")
    for source in (str(folder), "shapes:validation"):
        found = result(("weights.method", "rounding"), ("weights.rounding.loss", "importance"), ("images.calibration", source),
                       ("images.samples", 4), *QUICK["rounding"])
        assert math.isfinite(found.divergence.kl_nats)


def test_smoothquant_and_number_formats():
    plain, smooth = (result(("rotation.method", "none"), *more) for more in ([], [("scaling.method", "smoothquant")]))
    assert smooth.divergence.kl_nats < plain.divergence.kl_nats  # the planted outlier channels are what it is for
    assert math.isfinite(result(("weights.format", "mxfp4"), ("activations.format", "nvfp4"), ("activations.symmetric", True)).divergence.kl_nats)


def test_the_json_object():
    plain = result().to_dict()
    assert plain["perplexity"] is None and plain["divergence"]["tokens"] is None
    found = plain["classification"]
    assert set(found) == {"agreement", "kl_nats", "accuracy", "images", "protocol", "nan_images"}
    assert found["agreement"]["value"] == plain["divergence"]["same_top"] and found["agreement"]["stderr"] > 0
    assert found["kl_nats"]["value"] == plain["divergence"]["kl_nats"]
    accuracy = found["accuracy"]
    assert set(accuracy) == {"reference", "quantized", "difference"}
    assert accuracy["difference"]["value"] == pytest.approx(accuracy["quantized"]["value"] - accuracy["reference"]["value"])
    assert "shapes test" in found["protocol"] and "100 images" in found["protocol"]
    assert {"images", "walk", "score"} <= set(plain["seconds"])
    json.dumps(plain, allow_nan=False)
    assert result(model="tiny-llama", text={"evaluation": "pydoc", "windows": 1, "length": 32}).to_dict()["classification"] is None


def test_the_papers_order_at_low_bits(learned):
    """RTN loses most, GPTQ and learned rounding gain most of it back: 2-bit weights, on images that none of them learned from."""
    base = {"model": learned, "images": {"count": 500}, "rotation": {"method": "none"}, "activations": {"bits": 16}}
    weights = {"bits": 2, "rounding": {"iterations": 80}}
    found = {method: finish(run(Recipe.from_dict(base | {"weights": weights | {"method": method}}))) for method in ("rtn", "gptq", "rounding")}
    agreement = {method: one.classification.agreement.value for method, one in found.items()}
    kl = {method: one.divergence.kl_nats for method, one in found.items()}
    assert found["rtn"].classification.accuracy.reference.value > 0.5  # the model learned something
    assert agreement["rounding"] > agreement["rtn"] + 0.03 and agreement["gptq"] > agreement["rtn"]
    assert kl["rounding"] < 0.5 * kl["rtn"] and kl["gptq"] < kl["rtn"]


def test_same_recipe_same_numbers_and_the_reference_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    one, two = (result().to_dict() for _ in range(2))
    assert len(list((tmp_path / "references").glob("*.safetensors"))) == 1
    for plain in (one, two):
        plain.pop("seconds"), plain.pop("peak_memory_mb")
    assert one == two


def test_resume(tmp_path):
    again = recipe(("weights.method", "gptq"))
    wanted = finish(run(again)).classification
    for event in (events := run(again, checkpoint=tmp_path)):
        if event.stage == "walk" and event.block == 0:
            events.close()
    assert (tmp_path / "walk.safetensors").is_file()
    messages = []
    assert finish(run(again, checkpoint=tmp_path), lambda e: messages.append(e.message)).classification == wanted
    assert "going on at block 1" in messages
    with pytest.raises(Cancelled):
        finish(run(again, cancelled=lambda: True))


def test_calibration_follows_the_seed_and_shares_no_image_with_evaluation():
    sets = [calibration_inputs(prepare(recipe(seed=seed))).values for seed in (0, 0, 1)]
    sets.append(evaluation_inputs(prepare(recipe())).values[:8])
    assert torch.equal(sets[0], sets[1])
    assert len({image.numpy().tobytes() for one in sets[1:] for image in one}) == 24


def test_folders_of_images(tmp_path):
    for name in ("disc", "ring"):
        (tmp_path / "known" / name).mkdir(parents=True)
        Image.effect_noise((48, 20), 60).convert("RGB").save(tmp_path / "known" / name / "a.png")
    found = result(("images.evaluation", str(tmp_path / "known")), ("images.count", 0))
    assert found.classification.images == 2 and found.classification.accuracy is not None
    assert "folder known, all 2 images" in found.classification.protocol
    (tmp_path / "known" / "ring").rename(tmp_path / "known" / "walrus")
    found = result(("images.evaluation", str(tmp_path / "known")), ("images.count", 0))
    assert found.classification.accuracy is None and any("'walrus', a class of the images, is none of the model's" in note for note in found.notes)
    assert result(("images.count", 1)).to_dict()["classification"]["agreement"]["stderr"] is None


@pytest.mark.parametrize(("changes", "words"), [
    ([("images.count", 0)], "drawn without end"), ([("images.evaluation", "wikitext2:test")], "no image set"),
    ([("rotation.method", "dartquant")], "learns from a text, and tiny-vit reads images"), ([("weights.group", 7)], "does not divide"),
    ([("ablation.unit", "block")], "measures what units cost in perplexity"),
    ([("weights.method", "rounding"), ("weights.rounding.loss", "kl")], "predicts at one token alone"),
    ([("weights.method", "gptq"), ("images.calibration", "./nothing/here")], "no folder of images"),
])
def test_bad_recipes_are_refused(changes, words):
    with pytest.raises(BadInput, match=words):
        result(*changes)


def test_a_processor_for_another_size_is_refused():
    loaded = load("tiny-vit")
    loaded.processor.size = {"height": 48, "width": 48}
    with pytest.raises(BadInput, match=r"makes images of 3 x 48 x 48, and its config\.json asks for 3 x 32 x 32"):
        finish(run(recipe(), loaded=loaded))


def test_recipes_of_language_models_keep_their_marks():
    """The fingerprint from before vision models: finished runs are found again. Defaults come back all the same."""
    assert "images" not in Recipe().to_dict() and Recipe.from_dict(Recipe().to_dict()).images.evaluation == "shapes:test"
    assert "images" in recipe().to_dict() and Recipe.from_dict(recipe().to_dict()) == recipe()
    assert recipe().fingerprint != Recipe.from_dict({"model": "tiny-vit"}).fingerprint
    assert recipe(("images.evaluation", "shapes:train")).to_toml().count("shapes:train") == 1


def test_the_doctor_examines_vision_models():
    diagnosis, proofs = examine("tiny-deit-distilled")
    assert [s.slot for s in diagnosis.slots] == list(Slot) and proofs and all(p.holds for p in proofs)


def test_measures_on_known_logits():
    float_logits = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [2, 0, 0]])
    other = torch.tensor([[2.0, 0, 0], [2, 0, 0], [0, 0, 2], [float("nan"), 0, 0]])
    found = classification(float_logits, other, torch.tensor([0, 1, 1, 0]), "four")
    assert found.agreement.value == 0.5 and found.agreement.stderr == pytest.approx(math.sqrt(1 / 3) / 2)
    assert found.accuracy.reference.value == 0.75 and found.accuracy.quantized.value == 0.25 and found.accuracy.difference.value == -0.5
    assert found.nan_images == 1 and math.isnan(found.kl_nats.value)
    p, q = float_logits[1].softmax(-1), other[1].softmax(-1)
    kl = float((p * (p / q).log()).sum())
    assert classification(float_logits[:3], other[:3], None, "three").kl_nats.value == pytest.approx(kl / 3, rel=1e-5)
    assert classification(float_logits[:3], other[:3], None, "three").accuracy is None
