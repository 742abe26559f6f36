"""What holds for every family that reads images, on tiny instances of the real transformers classes."""

import pytest
import torch

from rotviz.errors import UnknownFamily
from rotviz.models.families import FAMILIES, family_for, family_of
from rotviz.models.loading import load
from rotviz.models.norms import in_own_precision
from rotviz.models.tiny_vision import TINY_VISION, tiny_vision
from rotviz.models.walk import BlockSource, forward
from rotviz.rotations import ROTATIONS
from rotviz.surgery.doctor import diagnose, source_sizes
from rotviz.surgery.plan import make_plan
from rotviz.surgery.proof import prove, relative_difference
from rotviz.surgery.whole import rewrite_model
from rotviz.types import Modality, Slot


@pytest.fixture(scope="module")
def models():
    return {name: load(name).model for name in TINY_VISION}


def images(count=3):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def logits_of(model, pixels):
    with torch.no_grad():
        return model(pixel_values=pixels).logits


def walked(source, pixels):
    entry = source.ends.entry(pixels)
    hidden = entry.hidden
    for index in range(len(source)):
        hidden = forward(source.original(index).block, hidden, entry.arguments[index])
    return source.ends.finish(hidden)


def plan_for(source, method="hadamard"):
    return make_plan(ROTATIONS[method]().build, tuple(Slot), source_sizes(source), 0)


def test_every_vision_family_has_a_tiny_model(models):
    reading = {name for name, family in FAMILIES.items() if family.modality is Modality.IMAGE}
    assert {FAMILIES.name_of(family_of(model)) for model in models.values()} == reading


@pytest.mark.parametrize("name", TINY_VISION)
def test_walk_equals_whole_model_and_transformers_eager(models, name):
    whole = logits_of(models[name], images())
    assert relative_difference(whole, walked(BlockSource(models[name]), images())) <= 1e-6
    assert relative_difference(logits_of(tiny_vision(name, attention="eager")[0], images()), whole) <= 1e-5


@pytest.mark.parametrize("name", TINY_VISION)
@pytest.mark.parametrize("method", ["hadamard", "orthogonal"])
def test_logits_stay_in_float64(name, method):
    """The centring path carries over: patch filters and their bias, tokens, positions and every writer lose their mean."""
    model = in_own_precision(load(name, torch.float64).model, family_of(load(name).model))
    source = BlockSource(model)
    proofs = prove(source, plan_for(source, method), images().double(), torch.float64)
    assert {"untie", "center", "fold", "R1", "R2", "R3", "R4"} <= {p.name for p in proofs}
    assert all(p.error <= 1e-9 and p.holds and p.block is None for p in proofs), proofs


@pytest.mark.parametrize("left_out", ["cls_token", "position_embeddings", "distillation_token", "projection.weight", "projection.bias"])
def test_an_entrance_that_is_forgotten_is_found(monkeypatch, left_out):
    """The proof can fail: whatever enters the stream without being turned moves the logits."""
    model = load("tiny-deit-distilled", torch.float64).model
    family = family_of(model)
    forgotten = model.get_parameter(f"deit.embeddings.{'patch_embeddings.' if 'projection' in left_out else ''}{left_out}")
    whole = type(family).entrances

    def some(self, model):
        return [e for e in whole(self, model) if e.parameter.shape != forgotten.shape or not torch.equal(e.parameter, forgotten)]

    source = BlockSource(model)
    plan = plan_for(source)
    monkeypatch.setattr(type(family), "entrances", some)
    proofs = {p.name: p for p in prove(source, plan, images().double(), torch.float64)}
    assert not proofs["center"].holds or not proofs["R1"].holds


def test_rewritten_model_keeps_its_logits_and_the_original_is_untouched(models):
    model = models["tiny-deit-distilled"]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    reference = logits_of(model, images())
    rewritten = rewrite_model(model, plan_for(BlockSource(model)))
    assert relative_difference(reference, logits_of(rewritten, images())) <= 1e-3
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", TINY_VISION)
def test_doctor_speaks_of_images_and_every_slot(models, name):
    source = BlockSource(models[name])
    diagnosis = diagnose(source, FAMILIES.name_of(source.family))
    facts = dict(diagnosis.facts)
    assert facts["reads"] == f"images of 3 x 32 x 32 in patches of 8 x 8: {17 if name == 'tiny-vit' else 18} positions"
    assert facts["norm"] == "LayerNorm" and facts["classes"] == "10" and "both ways" in facts["attention"]
    assert all(s.acts and s.how and s.construction and s.remark for s in diagnosis.slots)
    assert "centered first" in diagnosis.slots[0].remark


def test_a_model_without_a_head_is_refused(models):
    config = type(models["tiny-vit"].config)(num_labels=0)
    with pytest.raises(UnknownFamily, match="no classifier head"):
        family_for("ViTForImageClassification", config)


def test_random_models_are_the_same_for_the_same_seed_and_hold_outliers():
    one, again, other, plain = (tiny_vision("tiny-vit", **how)[0] for how in ({}, {}, {"seed": 1}, {"outliers": False}))
    assert torch.equal(logits_of(one, images()), logits_of(again, images()))
    assert not torch.allclose(logits_of(one, images()), logits_of(other, images()))
    gains = one.vit.layers[0].layernorm_before.weight / plain.vit.layers[0].layernorm_before.weight
    assert sorted(gains.round().tolist())[-3:] == [1, 20, 20]
