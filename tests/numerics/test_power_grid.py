"""The power grid: the uniform one for exponent 1, PowerQuant's formula for any, and the search."""

import pytest
import torch

from rotviz.numerics.grids import IntegerGrid, fake_quantize, fake_quantize_through, find_scale, quantize
from rotviz.numerics.power_grid import HIGHEST, LOWEST, PowerGrid, best_exponent, golden_section
from rotviz.types import Granularity, QuantSpec


def draw(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def power(bits: int, **more) -> QuantSpec:
    return QuantSpec(bits, True, Granularity.CHANNEL, number_format="power", **more)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_exponent_one_is_the_uniform_grid_bit_for_bit(bits, dtype):
    x = draw(20, 64).to(dtype)[:, None]
    for clip in (1.0, 0.7):
        spec = QuantSpec(bits, True, Granularity.CHANNEL, clip=clip)
        grid, even = PowerGrid(1.0), IntegerGrid()
        scale, expected = find_scale(x, spec, grid), find_scale(x, spec, even)
        assert torch.equal(scale.step, expected.step)
        codes = grid.codes(x, scale, spec)
        assert torch.equal(codes, even.codes(x, expected, spec))
        assert torch.equal(grid.values(codes, scale), even.values(codes, expected))


@pytest.mark.parametrize("exponent", [0.3, 0.7, 1.4])
def test_it_is_powerquants_formula(exponent):
    x = draw(5, 40, 1)
    peak, qmax = x.abs().amax(-1, keepdim=True), 7
    codes = torch.round(qmax * x.sign() * x.abs() ** exponent / peak**exponent)
    expected = codes.sign() * peak * (codes.abs() / qmax) ** (1 / exponent)
    grid, spec = PowerGrid(exponent), power(4)
    scale = find_scale(x[:, None], spec, grid)
    assert torch.equal(grid.codes(x[:, None], scale, spec)[:, 0], codes)
    torch.testing.assert_close(grid.values(codes[:, None], scale)[:, 0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bits", [3, 4])
def test_the_search_finds_the_best_exponent_of_a_fine_sweep(bits):
    x = draw(64, 128, 2)[:, None]

    def error(exponent):
        grid = PowerGrid(exponent)
        scale = find_scale(x, power(bits), grid)
        return float((grid.values(grid.codes(x, scale, power(bits)), scale) - x).square().sum())

    sweep = torch.arange(LOWEST, HIGHEST, 0.01).tolist()
    best = min(sweep, key=error)
    found = best_exponent(x, power(bits))
    assert error(found) <= error(best) * 1.01 and abs(found - best) < 0.05
    assert found < 1, "bell-shaped numbers want finer steps near zero"


def test_heavy_tails_gain_most():
    normal, heavy = draw(64, 256, 3), draw(64, 256, 4) ** 3

    def gain(x):
        even = QuantSpec(4, True, Granularity.CHANNEL)
        return float((fake_quantize(x, power(4)) - x).square().sum() / (fake_quantize(x, even) - x).square().sum())

    assert gain(heavy) < gain(normal) < 1


def test_golden_section_on_a_parabola():
    assert golden_section(lambda x: (x - 0.7312) ** 2, 0.1, 1.5) == pytest.approx(0.7312, abs=2e-3)


def test_codes_read_back_to_themselves():
    q = quantize(draw(6, 32, 5), power(3, group=8))
    again = PowerGrid(float(q.scale.exponent)).codes(q.values().unflatten(-1, (-1, 8)), q.scale, q.spec)
    assert torch.equal(again.flatten(-2), q.codes)


@pytest.mark.parametrize("x", [torch.zeros(2, 8), torch.full((2, 8), -3.0), torch.full((2, 8), 1e-30)])
def test_constant_rows_are_finite(x):
    assert torch.isfinite(fake_quantize(x, power(4))).all()


def test_gradients_are_finite_and_right_for_the_exponent():
    x = draw(3, 32, 6)[:, None]
    x[0, 0, 0] = 0
    exponent = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    grid = PowerGrid(exponent)
    spec = power(4)
    peak = x.abs().amax(-1, keepdim=True)
    leaf = x.clone().requires_grad_()
    out = grid.through(leaf, grid.scale(-peak, peak, spec), spec)
    torch.testing.assert_close(out.detach(), grid.values(grid.codes(x, grid.scale(-peak, peak, spec), spec), grid.scale(-peak, peak, spec)).detach(),
                               rtol=1e-12, atol=1e-12)
    (out - x).square().sum().backward()
    assert torch.isfinite(leaf.grad).all() and torch.isfinite(exponent.grad) and exponent.grad != 0
    assert torch.isfinite(fake_quantize_through(x[:, 0].clone().requires_grad_(), spec)).all()
