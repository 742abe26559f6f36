"""OmniQuant: clips and transforms are learned, fold away, and never end worse than they began."""

import dataclasses

import pytest
import torch
from block_tasks import ALL, drive, make_task

from rotviz.models.attention import copy_block
from rotviz.numerics.grids import fake_quantize
from rotviz.quantizers import QUANTIZERS
from rotviz.quantizers.block import linear_paths, outputs
from rotviz.quantizers.omniquant import START_LOGIT, _Clips, _Learner
from rotviz.surgery.scales import put
from rotviz.types import Granularity, QuantSpec

OmniQuant = QUANTIZERS["omniquant"]
W3 = QuantSpec(3, False, Granularity.CHANNEL, clip="none")
A4 = QuantSpec(4, False)


def test_clips_start_at_the_published_logit():
    task = make_task(spec=W3)
    weight = task.view.block.self_attn.q_proj.weight.data
    clips = _Clips(weight, task.parts("self_attn.q_proj", len(weight))[0])
    assert torch.allclose(clips.low, torch.full_like(clips.low, START_LOGIT)) and clips.low.shape == (80, 1, 1)
    share = float(torch.sigmoid(torch.tensor(START_LOGIT)))
    torch.testing.assert_close(clips(weight, hard=True), fake_quantize(weight, dataclasses.replace(W3, clip=share)))
    searched = dataclasses.replace(W3, clip="mse")
    found = _Clips(weight, make_task(spec=searched).parts("self_attn.q_proj", 80)[0])(weight, hard=True)
    torch.testing.assert_close(found, fake_quantize(weight, searched), rtol=0, atol=float(weight.abs().max()) / 7)


@pytest.mark.parametrize("slots", [(), ALL], ids=["plain", "rotated"])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2", "tiny-opt", "tiny-qwen2-moe"])
def test_transforms_alone_leave_the_function(name, slots):
    """Whatever scales and shifts are learned, without rounding the block is the float block: 1e-9 in float64."""
    task = make_task(name, slots, dtype=torch.float64, activations=A4, outliers=True, spec=QuantSpec(16))
    learner = _Learner(OmniQuant(transforms="on", epochs=0), task)
    for parameter in learner.parameters():
        parameter.data.mul_(torch.empty_like(parameter).uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(0)))
    view = copy_block(task.view)
    put(view, learner.result())
    expected = outputs(task, task.view.block, task.inputs)
    assert float((outputs(task, view.block, task.inputs) - expected).norm() / expected.norm()) < 1e-9
    assert not all(torch.equal(learner.result()[path], tensor) for path, tensor in dict(task.view.block.named_parameters()).items()
                   if path in learner.result())


@pytest.mark.parametrize("slots", [(), ALL], ids=["plain", "rotated"])
def test_learning_lowers_the_loss_and_moves_clips_and_scales(slots):
    task = make_task("tiny-llama", slots, spec=W3, activations=A4, outliers=True, windows=4)
    result, _ = drive(OmniQuant(epochs=6), task)
    assert result.metrics["loss_after"] < 0.95 * result.metrics["loss_before"]
    assert result.metrics["scale.attention.max"] > result.metrics["scale.attention.min"] > 0
    assert {"input_layernorm.weight", "post_attention_layernorm.weight"} <= set(result.tensors)
    assert set(result.weight_errors) == set(linear_paths(task.view))
    assert all(0 < error < 1 for error in result.weight_errors.values())


def test_weights_alone_learn_clips_only():
    result, _ = drive(OmniQuant(epochs=1), make_task(spec=W3))
    assert not any(name.startswith("scale.") for name in result.metrics)
    assert set(result.tensors) == {f"{path}.weight" for path in linear_paths(make_task().view)}
    assert any(name.startswith("scale.") for name in drive(OmniQuant(epochs=1, transforms="on"), make_task(spec=W3))[0].metrics)
    opt = drive(OmniQuant(epochs=1), make_task("tiny-opt", spec=W3))[0]
    assert "self_attn_layer_norm.bias" in opt.tensors, "LayerNorm models learn scales and shifts, as in the paper"


def test_what_a_family_cannot_take_is_said():
    result, _ = drive(OmniQuant(epochs=1, transforms="on"), make_task("tiny-qwen3"))
    assert any("no scales between q and k" in note for note in result.notes)
    assert not any(name.startswith("scale.key") for name in result.metrics)


def test_a_loss_that_is_not_finite_ends_learning_with_the_last_good_state():
    task = make_task(spec=W3)
    result, _ = drive(OmniQuant(epochs=3, clip_rate=1e30), task)
    assert result.notes and all(bool(torch.isfinite(t).all()) for t in result.tensors.values())
    assert result.metrics["loss_after"] <= result.metrics["loss_before"]
    broken = task.inputs.clone()
    broken[0, 0] = float("nan")
    result, _ = drive(OmniQuant(epochs=2), dataclasses.replace(task, inputs=broken))
    assert any("not finite" in note for note in result.notes)
    assert all(bool(torch.isfinite(t).all()) for t in result.tensors.values())


def test_settings_do_something():
    def result(**settings):
        task = make_task(spec=W3, noise=0.02, windows=2)
        return drive(OmniQuant(**({"epochs": 2, "transforms": "on"} | settings)), task)[0].tensors

    base = result()
    for change in ({"epochs": 5}, {"batch": 2}, {"clip_rate": 0.05}, {"scale_rate": 0.05}, {"transforms": "off"}, {"alpha": 0.75},
                   {"augment": True}, {"loss": "block"}):
        assert any(path not in result(**change) or not torch.equal(value, result(**change)[path]) for path, value in base.items()), change


def test_block_scaled_formats_are_refused():
    assert "no clip to learn" in OmniQuant().refusal(QuantSpec(4, True, number_format="nvfp4"))
    assert OmniQuant().refusal(QuantSpec(4, True, number_format="fp4")) is None
    result, _ = drive(OmniQuant(epochs=2), make_task(spec=QuantSpec(4, True, Granularity.CHANNEL, number_format="fp4")))
    assert result.metrics["loss_after"] <= result.metrics["loss_before"]
