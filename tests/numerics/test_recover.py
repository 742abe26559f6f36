"""Codes read back from fake-quantized numbers: the same numbers bit for bit, for every grid and dtype, and a refusal for what lies on none."""

from dataclasses import replace

import pytest
import torch

from rotviz.errors import BadInput
from rotviz.numerics.grids import code_range, fake_quantize
from rotviz.numerics.recover import recover
from rotviz.types import Granularity, QuantSpec

CHANNEL, GROUP = Granularity.CHANNEL, Granularity.GROUP
SPECS = [QuantSpec(bits, symmetric, GROUP if group else CHANNEL, group, clip)
         for bits in (2, 3, 4, 6, 8) for symmetric in (True, False) for group, clip in ((0, "mse"), (32, 0.8), (16, "none"))]


MINIMUM = [QuantSpec(bits, False, GROUP if group else CHANNEL, group, clip, "int_min")
           for bits in (2, 3, 4, 6, 8) for group, clip in ((0, "mse"), (32, 0.8), (16, "none"))]
"""Grids with a float minimum."""


def weight(seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    return torch.randn(40, 96, generator=torch.Generator().manual_seed(seed)) * 0.03 + offset


@pytest.mark.parametrize("spec", [*SPECS, *MINIMUM], ids=str)
def test_the_same_numbers_come_back(spec):
    rounded = fake_quantize(weight(), spec)
    found = recover(rounded, spec)
    assert torch.equal(found.values(), rounded)
    low, high = code_range(spec)
    assert found.codes.min() >= low and found.codes.max() <= high and torch.equal(found.codes, found.codes.round())
    assert spec.number_format == "int_min" or torch.equal(found.scale.zero, found.scale.zero.round())
    assert found.scale.step.shape == (40, 96 // (spec.group or 96), 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("spec", [s for s in SPECS if s.bits <= 4], ids=str)
def test_other_dtypes(spec, dtype):
    rounded = fake_quantize(weight().to(dtype), spec)
    found = recover(rounded, spec).values()
    tolerance = 2.0**-22 if dtype == torch.float64 else 0.0
    assert ((found - rounded).abs() <= tolerance * rounded.abs()).all()


@pytest.mark.parametrize("offset", [0.4, -5.0])
def test_groups_far_from_zero(offset):
    spec = QuantSpec(4, False, GROUP, 32, 1.0)
    rounded = fake_quantize(weight(offset=offset), spec)
    assert torch.equal(recover(rounded, spec).values(), rounded)


@pytest.mark.parametrize("symmetric", [True, False])
def test_constant_groups_and_dead_rows(symmetric):
    values = torch.zeros(4, 32)
    values[1], values[2, 5], values[3] = 0.37, -0.1, -2.0
    spec = QuantSpec(4, symmetric, CHANNEL)
    assert torch.equal(recover(values, spec).values(), values)


def test_fewer_bits_fit_a_larger_container():
    """Mixed precision: rows of 2, 3 and 4 bits, all within 4."""
    rows = torch.cat([fake_quantize(weight(seed), QuantSpec(bits, True, CHANNEL, clip="mse")) for seed, bits in enumerate((2, 3, 4))])
    found = recover(rows, QuantSpec(4, True, CHANNEL))
    assert torch.equal(found.values(), rows)


def test_what_lies_on_no_grid_is_refused():
    with pytest.raises(BadInput, match="40 of 40 groups"):
        recover(weight(), QuantSpec(4, True, CHANNEL))
    moved = fake_quantize(weight(), QuantSpec(4, True, CHANNEL))
    moved[3, 7] = moved[3, 7].nextafter(torch.tensor(1.0))
    with pytest.raises(BadInput, match="1 of 40 groups"):
        recover(moved, QuantSpec(4, True, CHANNEL))
    with pytest.raises(BadInput, match="integer grid"):
        recover(weight(), replace(QuantSpec(4, True, CHANNEL), number_format="fp4"))
