"""Packed linears against float linears with fake-quantized weights and inputs: the same to float32's resolution, and as many bytes as predicted."""

import copy

import pytest
import torch
from torch import nn

from rotviz.deployment.build import packed_weight
from rotviz.deployment.linear import LinearInput, PackedLinear, RoundedLinear
from rotviz.kernels.cost import row_bytes
from rotviz.kernels.online import kernels_know
from rotviz.numerics.grids import fake_quantize
from rotviz.numerics.rotation import DenseRotation, HadamardRotation
from rotviz.types import Granularity, QuantSpec

CHANNEL, GROUP, TOKEN = Granularity.CHANNEL, Granularity.GROUP, Granularity.TOKEN
OUT, IN = 48, 96
FLOAT = QuantSpec()
WEIGHTS = [QuantSpec(4, True, CHANNEL, clip="mse"), QuantSpec(4, False, GROUP, 32), QuantSpec(3, True, CHANNEL), QuantSpec(8, True, CHANNEL),
           QuantSpec(5, False, CHANNEL), QuantSpec(4, False, GROUP, 32, number_format="int_min")]
ACTIVATIONS = [FLOAT, QuantSpec(4, False), QuantSpec(8, True), QuantSpec(4, True, GROUP, 16, 0.9), QuantSpec(8, False, clip="mse"),
               QuantSpec(4, False, GROUP, 16, number_format="int_min"), QuantSpec(4, False, number_format="int_min")]
SIGNS = torch.randint(0, 2, (IN,), generator=torch.Generator().manual_seed(3)).double() * 2 - 1


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("activations", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_products_agree(weights, activations):
    rounded, bias, x = fake_quantize(draw(OUT, IN), weights), draw(OUT, seed=1), draw(2, 7, IN, seed=2)
    linear = PackedLinear(packed_weight(rounded, weights), bias, LinearInput(activations))
    wanted = nn.functional.linear(fake_quantize(x, activations).double(), rounded.double(), bias.double())
    # a sum of IN products in float32, and two roundings of scales
    bound = IN * torch.finfo(torch.float32).eps * (fake_quantize(x, activations).abs().double() @ rounded.abs().double().T + bias.abs())
    assert ((linear(x).double() - wanted).abs() <= bound).all()
    a_scale_a_row = activations.number_format == "int" and not activations.group and weights.symmetric and not weights.group
    integers = activations.quantizes and a_scale_a_row and (weights.bits <= 4) == (activations.bits <= 4)
    assert linear.product == ("integer" if integers else "weight only")


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_bytes_are_those_predicted(weights):
    packed = packed_weight(fake_quantize(draw(OUT, IN), weights), weights)
    assert packed.nbytes == row_bytes(OUT, IN, weights)
    assert packed.data.numel() == OUT * IN // (2 if weights.bits <= 4 else 1)


def test_an_odd_row_takes_a_byte_a_code():
    spec = QuantSpec(4, True, CHANNEL)
    rounded = fake_quantize(draw(6, 15), spec)
    packed = packed_weight(rounded, spec)
    assert packed.data.shape == (6, 15) and torch.equal(packed.codes() * packed.step, rounded)


@pytest.mark.parametrize("rotation", [HadamardRotation(IN, SIGNS), HadamardRotation(IN), DenseRotation(torch.linalg.qr(draw(IN, IN).double())[0])],
                         ids=lambda r: r.describe())
@pytest.mark.parametrize("activations", ACTIVATIONS[:3], ids=str)
def test_online_rotations(rotation, activations):
    """The kernels' transform and the operator's differ in the last place, which may move a number at a tie to the next code: few, by one step."""
    source, x = LinearInput(activations, rotation), draw(64, IN)
    wanted = fake_quantize(rotation.apply(x), activations)
    found = source.numbers(x)
    step = wanted.aminmax(dim=-1, keepdim=True)
    allowed = 1.01 * (step.max - step.min) / (2**activations.bits - 2) if activations.quantizes else 1e-5
    away = (found - wanted).abs()
    assert (away <= allowed).all() and (away > 1e-5).float().mean() < 1e-3
    assert kernels_know(rotation) == isinstance(rotation, HadamardRotation)


def test_another_base_is_not_taken_for_the_kernels():
    base = torch.linalg.qr(draw(12, 12).double())[0]
    rotation = HadamardRotation(IN, SIGNS, base=base)
    assert not kernels_know(rotation)
    x = draw(5, IN)
    assert torch.equal(LinearInput(FLOAT, rotation).numbers(x), rotation.apply(x))


def test_inputs_are_quantized_once_for_all_that_read_them(monkeypatch):
    from rotviz.deployment import linear as module

    calls = []
    monkeypatch.setattr(module, "quantize", lambda x, spec, real=module.quantize: calls.append(1) or real(x, spec))
    source, x = LinearInput(QuantSpec(4, False)), draw(3, IN)
    spec = QuantSpec(4, True, CHANNEL)
    for seed in range(3):
        PackedLinear(packed_weight(fake_quantize(draw(OUT, IN, seed=seed), spec), spec), None, source)(x)
    assert len(calls) == 1
    source.codes(x.clone())
    assert len(calls) == 2


def test_steps_stay_in_float32_when_the_module_is_cast():
    spec = QuantSpec(4, False, GROUP, 32)
    linear = PackedLinear(packed_weight(fake_quantize(draw(OUT, IN), spec), spec), draw(OUT), LinearInput(FLOAT))
    before = copy.deepcopy(linear)
    linear.to(torch.bfloat16)
    assert linear.bias.dtype == torch.bfloat16 and torch.equal(linear.step, before.step) and torch.equal(linear.zero, before.zero)
    x = draw(4, IN).to(torch.bfloat16)
    assert linear(x).dtype == torch.bfloat16
    assert torch.allclose(linear(x).float(), before(x.float()), rtol=2e-2, atol=2e-2)


def test_float_weights_with_rounded_inputs():
    linear = nn.Linear(IN, OUT)
    x, spec = draw(5, IN), QuantSpec(8, False)
    assert torch.equal(RoundedLinear(linear, LinearInput(spec))(x), linear(fake_quantize(x, spec)))
