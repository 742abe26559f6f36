"""GPTQ on a block: order of the stages, inputs of the partly quantized block, experts without tokens."""

import pytest
import torch
from block_tasks import ALL, drive, make_task

from rotviz.models.attention import copy_block
from rotviz.numerics.gptq import gptq
from rotviz.quantizers import QUANTIZERS
from rotviz.quantizers.block import linear_paths, second_moments, stages
from rotviz.surgery.scales import put

GPTQ = QUANTIZERS["gptq"]


@pytest.mark.parametrize("name, expected", [("tiny-llama", [3, 1, 2, 1]), ("tiny-phi3", [1, 1, 1, 1]), ("tiny-opt", [3, 1, 1, 1]),
                                            ("tiny-qwen2-moe", [3, 1, 10, 5])])
def test_stages(name, expected):
    assert [len(paths) for paths in stages(make_task(name).view)] == expected


@pytest.mark.parametrize("slots", [(), ALL], ids=["plain", "rotated"])
def test_each_stage_sees_the_block_as_it_is_by_then(slots):
    """By hand: quantize the earlier stages, collect the last stage's Hessian on that block, quantize it."""
    task = make_task("tiny-llama", slots, dtype=torch.float64, noise=0.1)
    tensors = drive(GPTQ(), task)[0].tensors
    *earlier, (last,) = stages(task.view)
    view = copy_block(task.view)
    put(view, {f"{path}.weight": tensors[f"{path}.weight"] for paths in earlier for path in paths})
    hessian = second_moments(task, view, [last])[last]
    weight = task.view.block.get_submodule(last).weight.data
    assert torch.equal(tensors[f"{last}.weight"], gptq(weight, hessian, task.spec).weight)
    fresh = second_moments(task, task.view, [last])[last]
    assert not torch.allclose(hessian, fresh), "the earlier stages' rounding is felt"


def test_second_moments_are_those_of_the_inputs():
    task = make_task("tiny-llama", (), dtype=torch.float64)
    norm = task.view.block.input_layernorm(task.inputs).flatten(0, 1)
    found = second_moments(task, task.view, ["self_attn.q_proj"])["self_attn.q_proj"]
    torch.testing.assert_close(found, 2 / len(norm) * norm.T @ norm)
    assert not task.view.block.self_attn.q_proj._forward_pre_hooks


def test_experts_without_tokens_are_rounded():
    task = make_task("tiny-qwen3-moe", windows=1, length=2)
    result, _ = drive(GPTQ(), task)
    assert all(bool(torch.isfinite(t).all()) and bool(t.any()) for t in result.tensors.values())
    assert any("always zero" in note for note in result.notes)
    assert set(result.tensors) == {f"{path}.weight" for path in linear_paths(task.view)}


def test_settings_do_something():
    from rotviz.types import Granularity, QuantSpec

    def result(**settings):
        return drive(GPTQ(**settings), make_task(spec=QuantSpec(3, True, Granularity.GROUP, 16)))[0].tensors["mlp.up_proj.weight"]

    found = [result(), result(damping=0.5), result(act_order=True), result(static_groups=True)]
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])


def test_metrics_say_how_much_better_than_rounding():
    metrics = drive(GPTQ(), make_task(windows=6, length=48))[0].metrics
    objectives = [value for name, value in metrics.items() if name.endswith("objective")]
    assert len(objectives) == 7 and all(0 < value <= 1 for value in objectives) and min(objectives) < 0.9


def test_second_moments_take_no_more_than_they_need():
    """A forward ends at the last linear that is asked for; linears that read one tensor share their numbers."""
    task = make_task("tiny-llama")
    query, *others = second_moments(task, task.view, ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]).values()
    assert all(torch.equal(query, other) for other in others)
    went = []
    task.view.block.mlp.down_proj.register_forward_hook(lambda *_: went.append(1))
    second_moments(task, task.view, ["mlp.gate_proj", "mlp.up_proj"])
    assert not went
    assert not any(task.view.block.get_submodule(path)._forward_pre_hooks for path in ("mlp.gate_proj", "mlp.up_proj"))
