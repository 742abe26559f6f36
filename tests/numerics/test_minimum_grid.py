"""The grid with a float minimum: it gives back what was stored so, keeps both ends, and is never worse than half a step."""

import pytest
import torch

from rotviz.errors import BadInput
from rotviz.numerics.gptq import gptq
from rotviz.numerics.grids import fake_quantize, fake_quantize_through, quantize
from rotviz.types import Granularity, QuantSpec


def draw(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spec(bits: int = 4, group: int = 32, name: str = "int_min", **more) -> QuantSpec:
    return QuantSpec(bits, False, Granularity.GROUP if group else Granularity.CHANNEL, group, number_format=name, **more)


@pytest.fixture
def stored() -> torch.Tensor:
    """Weights as GGUF's Q4_1 reads them back: float16 steps and minima for each 32, codes from 0 to 15 with both ends in use."""
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 16, (8, 4, 32), generator=generator).float()
    codes[..., 0], codes[..., 1] = 0, 15
    step = (torch.rand(8, 4, 1, generator=generator) + 0.1).half().float()
    minimum = (-torch.rand(8, 4, 1, generator=generator) * 10).half().float()
    return (codes * step + minimum).flatten(1)


def test_what_was_stored_with_a_float_minimum_comes_back_and_an_integer_zero_loses_it(stored):
    torch.testing.assert_close(fake_quantize(stored, spec()), stored, rtol=0, atol=float(stored.abs().max()) * 2**-22)
    lost = fake_quantize(stored, spec(name="int")) - stored
    assert float(lost.norm() / stored.norm()) > 0.01


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [0, 16])
def test_both_ends_of_a_group_are_levels_and_no_number_is_further_than_half_a_step(bits, group):
    x = draw(5, 64) + 0.3
    q = quantize(x, spec(bits, group))
    error = (q.values() - x).unflatten(-1, (-1, group or 64))
    assert bool((error.abs() <= q.scale.step / 2 * (1 + 1e-12)).all())
    grouped = x.unflatten(-1, (-1, group or 64))
    if group:  # a whole row's range is stretched to zero, a group's is not
        for end in (grouped.argmin(-1, keepdim=True), grouped.argmax(-1, keepdim=True)):
            torch.testing.assert_close(error.gather(-1, end), torch.zeros_like(end, dtype=x.dtype), rtol=0, atol=1e-12)


def test_rounding_again_changes_nothing():
    once = fake_quantize(draw(4, 64, 1), spec())
    torch.testing.assert_close(fake_quantize(once, spec()), once, rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-30])
def test_a_constant_group_keeps_its_value(value):
    x = torch.full((2, 32), value)
    assert torch.equal(fake_quantize(x, spec()), x)


def test_the_gradient_of_the_rounded_numbers_is_that_of_the_numbers_within_the_range():
    x = draw(2, 32, 2).requires_grad_()
    fake_quantize_through(x, spec()).sum().backward()
    inside = torch.ones_like(x)
    # the ends carry the range, the others pass their gradient on
    order = x.detach().argsort(-1)
    for row in range(2):
        inside[row, order[row, 0]] = inside[row, order[row, -1]] = 0
    assert torch.equal(x.grad[inside == 1], torch.ones_like(x.grad[inside == 1]))


def test_gptq_keeps_what_lies_on_the_grid_already(stored):
    inputs = draw(200, 128, 4).float()
    kept = gptq(stored, inputs.T @ inputs, spec(clip="none")).weight
    torch.testing.assert_close(kept, stored, rtol=0, atol=1e-4)


def test_a_symmetric_spec_is_refused():
    with pytest.raises(BadInput, match="set symmetric = false"):
        QuantSpec(4, True, Granularity.GROUP, 32, number_format="int_min")
