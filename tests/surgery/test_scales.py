"""Equivalent transforms leave the function alone, in every family, rotated and not; SmoothQuant's scales are the paper's."""

import pytest
import torch
from block_tasks import ALL, make_task

from rotviz.models.attention import copy_block
from rotviz.models.tiny import TINY
from rotviz.quantizers.block import outputs, run
from rotviz.surgery.scales import Scales, give_gains, key_obstacle, paired, put, scaled, shift_obstacle
from rotviz.surgery.smoothing import ranges_of, smoothing_scales


def some_scales(view, seed=0):
    """Scales far from one wherever this block takes them."""
    generator = torch.Generator().manual_seed(seed)
    heads, width = view.heads, view.attention_readers()[0].weight.shape[1]

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).exp()

    half = draw(heads.kv, heads.width // 2)
    readers = {"attention_shift": (view.family.attn_norm, view.attention_readers()), "mlp_shift": (view.family.mlp_norm, view.mlp_readers())}
    shifts = {name: draw(width) for name, (path, linears) in readers.items() if shift_obstacle(view, path, linears) is None}
    key = None if key_obstacle(view) else paired(half) if view.family.rope else draw(heads.kv, heads.width)
    return Scales(draw(width), draw(width), draw(heads.kv, heads.width), key, **shifts)


@pytest.mark.parametrize("slots", [(), ALL], ids=["plain", "rotated"])
@pytest.mark.parametrize("name", TINY)
def test_the_function_stays(name, slots):
    task = make_task(name, slots, dtype=torch.float64)
    expected = outputs(task, task.view.block, task.inputs)
    view = copy_block(task.view)
    give_gains(view, [view.family.attn_norm, view.family.mlp_norm])
    scales = some_scales(view)
    tensors = scaled(view, scales)
    found = run(view.block, task.inputs, task.arguments(3), tensors)
    assert float((found - expected).norm() / expected.norm()) < 1e-9
    put(view, tensors)
    again = outputs(task, view.block, task.inputs)
    assert float((again - expected).norm() / expected.norm()) < 1e-9
    assert torch.equal(outputs(task, task.view.block, task.inputs), expected), "the block itself is untouched"
    moved = [path for path, tensor in tensors.items() if not torch.equal(tensor, dict(view.block.named_parameters())[path])]
    assert not moved and len(tensors) >= 5


def test_which_transforms_each_family_takes():
    assert key_obstacle(make_task("tiny-qwen3").view) and key_obstacle(make_task("tiny-gemma3").view)
    assert key_obstacle(make_task("tiny-phi3").view) is None
    opt = make_task("tiny-opt").view
    assert some_scales(opt).attention_shift is not None
    assert some_scales(make_task("tiny-opt", ALL).view).attention_shift is None, "folding the norm leaves no offset to shift"


def test_unequal_scales_of_a_pair_would_change_the_scores():
    """Why q -> k has one scale for the two channels that RoPE turns together."""
    task = make_task(dtype=torch.float64)
    heads = task.view.heads
    uneven = torch.linspace(0.5, 2, heads.kv * heads.width, dtype=torch.float64).view(heads.kv, heads.width)
    expected = outputs(task, task.view.block, task.inputs)
    found = run(task.view.block, task.inputs, task.arguments(3), scaled(task.view, Scales(key=uneven)))
    assert float((found - expected).norm() / expected.norm()) > 1e-4


def test_smoothquant_is_the_formula_and_evens_out_the_ranges():
    task = make_task(outliers=True, dtype=torch.float64)
    view = task.view

    def passes(block):
        with torch.no_grad():
            yield run(block, task.inputs, task.arguments(3))

    ranges = ranges_of(view, passes(view.block))
    scales = smoothing_scales(view, ranges, 0.5)
    q, k, v = (reader.weight.abs().amax(0) for reader in view.attention_readers())
    expected = (ranges.attention.peak / torch.maximum(torch.maximum(q, k), v)).sqrt()
    torch.testing.assert_close(scales.attention, expected, rtol=1e-12, atol=0)
    smooth = copy_block(view)
    put(smooth, scaled(smooth, scales))
    after = ranges_of(smooth, passes(smooth.block))
    torch.testing.assert_close(after.attention.peak, ranges.attention.peak / scales.attention, rtol=1e-9, atol=0)
    loudest = [float(r.attention.peak.max() / r.attention.peak.median()) for r in (ranges, after)]
    assert loudest[1] < 0.5 * loudest[0]
