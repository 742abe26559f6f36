"""What holds for every registered weight quantizer, data-free or calibrated."""

import copy
import dataclasses

import pytest
import torch
from block_tasks import ALL, W3, drive, make_task

from rotviz.config import from_mapping, settings_of, to_mapping
from rotviz.errors import Cancelled
from rotviz.models.attention import copy_block
from rotviz.models.tiny import TINY
from rotviz.quantizers import QUANTIZERS, is_calibrated
from rotviz.quantizers.block import linear_paths, mean_error, outputs
from rotviz.surgery.scales import put
from rotviz.types import Granularity, QuantSpec, Slot

SPECS = [QuantSpec(4, True, Granularity.CHANNEL, clip="mse"),
         QuantSpec(3, False, Granularity.GROUP, 16), QuantSpec(2, True, Granularity.CHANNEL, clip=0.8),
         QuantSpec(3, True, Granularity.CHANNEL, number_format="power"), QuantSpec(3, False, Granularity.GROUP, 16, number_format="int_min")]
DATA_FREE = [name for name in QUANTIZERS if not is_calibrated(QUANTIZERS[name])]
CALIBRATED = [name for name in QUANTIZERS if is_calibrated(QUANTIZERS[name])]
QUICK = {"omniquant": {"epochs": 2}, "rounding": {"iterations": 8, "batch": 2}}
"""Enough steps to move something."""
A4, KV4 = QuantSpec(4, False), QuantSpec(4, False, Granularity.HEAD, clip=0.95)


def method_of(name: str, **settings):
    return QUANTIZERS[name](**(QUICK.get(name, {}) | settings))


def deployed(task, result):
    """The task's block with the result in it."""
    view = copy_block(task.view)
    put(view, result.tensors)
    return view


@pytest.fixture
def weight():
    return torch.randn(12, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", DATA_FREE)
@pytest.mark.parametrize("spec", SPECS)
def test_data_free(name, spec, weight):
    method = QUANTIZERS[name]()
    before = weight.clone()
    found = method.quantize(weight, spec)
    assert torch.equal(weight, before), "the weight it is given stays as it was"
    assert found.weight.shape == weight.shape and found.weight.dtype == weight.dtype and torch.isfinite(found.weight).all()
    assert torch.equal(found.weight, method.quantize(weight, spec).weight), "the same in, the same out"
    assert name == "none" or on_grid(found.weight, spec)


@pytest.mark.parametrize("name", CALIBRATED)
@pytest.mark.parametrize("spec", SPECS)
def test_results_lie_on_the_grid_and_nothing_given_is_changed(name, spec):
    task = make_task(spec=spec, noise=0.05)
    before = copy.deepcopy(task.view.block.state_dict()), task.inputs.clone(), task.float_inputs.clone()
    state = torch.get_rng_state()
    result, news = drive(method_of(name), task)
    for path, (module, _) in linear_paths(task.view).items():
        tensor = result.tensors[f"{path}.weight"]
        assert tensor.shape == module.weight.shape and tensor.dtype == module.weight.dtype and on_grid(tensor, spec), path
    assert all(torch.equal(value, before[0][key]) for key, value in task.view.block.state_dict().items())
    assert torch.equal(task.inputs, before[1]) and torch.equal(task.float_inputs, before[2])
    assert not task.view.block._forward_hooks and all(not m._forward_pre_hooks for m in task.view.block.modules())
    assert torch.equal(torch.get_rng_state(), state), "the global random state is left alone"
    fractions = [step.fraction for step in news]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1.0)
    assert all(isinstance(value, float) for value in result.metrics.values())


def on_grid(tensor, spec):
    groups = tensor.reshape(-1, spec.group or tensor.shape[1])
    return bool(torch.isfinite(tensor).all()) and all(len(row.unique()) <= 2**spec.bits for row in groups)


@pytest.mark.parametrize("name", CALIBRATED)
def test_the_generator_decides(name):
    def once(seed):
        task = make_task(windows=4, generator=torch.Generator().manual_seed(seed))
        return drive(method_of(name), task)[0].tensors

    first = once(0)
    assert all(torch.equal(value, first[path]) for path, value in once(0).items())
    if name == "rounding":
        assert any(not torch.equal(value, first[path]) for path, value in once(1).items())


@pytest.mark.parametrize("slots", [(), ALL], ids=["plain", "rotated"])
@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("name", CALIBRATED)
def test_every_family_with_outliers_rounded_activations_and_cache(name, family, slots):
    """The hard case of every family: finite, on the grid, deployable, and no worse than plain rounding where a method says it measures that."""
    task = make_task(family, slots, block=1, windows=2, length=16, outliers=True, activations=A4, kv=KV4)
    result, _ = drive(method_of(name, **({"iterations": 2} if name == "rounding" else {"epochs": 1} if name == "omniquant" else {})), task)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in result.tensors.values())
    view = deployed(task, result)
    assert all(on_grid(module.weight.data, W3) for module, _ in linear_paths(view).values())
    assert bool(torch.isfinite(outputs(task, view.block, task.inputs)).all())
    if "loss_after" in result.metrics:
        assert result.metrics["loss_after"] <= result.metrics["loss_before"]


@pytest.mark.parametrize("slots", [(), ALL], ids=["plain", "rotated"])
@pytest.mark.parametrize("name", CALIBRATED)
def test_the_block_comes_out_nearer_than_rounded(name, slots):
    """What calibration is for: at 3 bits the block's output is nearer to the float block's than plain rounding's."""
    task = make_task("tiny-opt", slots, windows=6, length=48)
    target = outputs(task, task.view.block, task.inputs)

    def error(tensors):
        view = copy_block(task.view)
        put(view, tensors)
        return float(mean_error(outputs(task, view.block, task.inputs), target, normalized=True))

    rounded = {f"{path}.weight": QUANTIZERS["rtn"]().quantize(m.weight.data, W3).weight for path, (m, _) in linear_paths(task.view).items()}
    settings = {"omniquant": {"epochs": 10}, "rounding": {"iterations": 60}}.get(name, {})
    assert error(drive(QUANTIZERS[name](**settings), task)[0].tensors) < 0.85 * error(rounded)


@pytest.mark.parametrize("name", CALIBRATED)
def test_bits_may_differ_between_and_within_linears(name):
    rows = torch.tensor([2, 4, 16, 3]).repeat(20)  # q_proj of the tiny Llama has 80 output channels
    task = make_task(bits={"self_attn.q_proj": rows, "mlp.down_proj": 2, "self_attn.o_proj": 16})
    tensors = drive(method_of(name), task)[0].tensors
    q = tensors["self_attn.q_proj.weight"]
    assert all(len(q[i].unique()) <= 2 ** int(bits) for i, bits in enumerate(rows) if bits < 16)
    kept = rows == 16
    assert torch.equal(q[kept], task.view.block.self_attn.q_proj.weight.data[kept])
    assert torch.equal(tensors["self_attn.o_proj.weight"], task.view.block.self_attn.o_proj.weight.data)
    assert all(len(row.unique()) <= 4 for row in tensors["mlp.down_proj.weight"])
    assert max(len(row.unique()) for row in tensors["self_attn.k_proj.weight"]) > 4


@pytest.mark.parametrize("name", CALIBRATED)
def test_it_stops_when_asked(name):
    calls = []

    def stop():
        calls.append(1)
        if len(calls) > 3:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        drive(QUANTIZERS[name](), make_task(stop_if_cancelled=stop))


@pytest.mark.parametrize("name", CALIBRATED)
def test_online_rotations_act_while_it_learns(name):
    """With R4 in force the down projection reads turned inputs: quantizing as if they were not turned would give other weights."""
    turned = make_task("tiny-llama", (Slot.R4,), windows=2)
    blind = make_task("tiny-llama", (Slot.R4,), windows=2)
    bare = copy_block(blind.view)
    for hook in list(bare.block.mlp.down_proj._forward_pre_hooks):
        del bare.block.mlp.down_proj._forward_pre_hooks[hook]
    result = drive(method_of(name), turned)[0].tensors["mlp.down_proj.weight"]
    other = drive(method_of(name), dataclasses.replace(blind, view=bare))[0].tensors["mlp.down_proj.weight"]
    assert not torch.equal(result, other)


@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_configuration_is_frozen_documented_and_travels(name):
    method = QUANTIZERS[name]
    assert dataclasses.is_dataclass(method) and method.__dataclass_params__.frozen and QUANTIZERS.name_of(method) == name
    assert method.summary.endswith(".") and all(s.help for s in settings_of(method))
    assert from_mapping(method, to_mapping(method())) == method()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", CALIBRATED)
def test_other_dtypes(name, dtype):
    task = make_task(dtype=dtype, windows=2)
    tensors = drive(method_of(name), task)[0].tensors
    assert all(tensor.dtype == dtype and bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
