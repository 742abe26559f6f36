"""What holds for every registered weight quantizer."""

import dataclasses

import pytest
import torch

from rotviz.quantizers import QUANTIZERS
from rotviz.types import Granularity, QuantSpec

SPECS = [QuantSpec(4, True, Granularity.CHANNEL, clip="mse"),
         QuantSpec(3, False, Granularity.GROUP, 16), QuantSpec(2, True, Granularity.CHANNEL, clip=0.8)]


@pytest.fixture
def weight():
    return torch.randn(12, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", list(QUANTIZERS))
@pytest.mark.parametrize("spec", SPECS)
def test_contract(name, spec, weight):
    method = QUANTIZERS[name]()
    before = weight.clone()
    found = method.quantize(weight, spec)
    assert torch.equal(weight, before), "the weight it is given stays as it was"
    assert found.weight.shape == weight.shape and found.weight.dtype == weight.dtype and torch.isfinite(found.weight).all()
    assert torch.equal(found.weight, method.quantize(weight, spec).weight), "the same in, the same out"
    groups = found.weight.reshape(-1, spec.group or 64)
    assert name == "none" or all(len(row.unique()) <= 2**spec.bits for row in groups)


@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_configuration_is_frozen_and_described(name):
    method = QUANTIZERS[name]
    assert dataclasses.is_dataclass(method) and method.__dataclass_params__.frozen and method.summary and QUANTIZERS.name_of(method) == name
