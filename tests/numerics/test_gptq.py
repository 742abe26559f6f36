"""GPTQ against its definition: optimal brain quantization with explicit updates of the inverse Hessian."""

import pytest
import torch

from rotviz.errors import BadInput
from rotviz.numerics.gptq import Columns, gptq, inverse_factor, objective, sweep
from rotviz.numerics.grids import fake_quantize, quantize
from rotviz.types import Granularity, QuantSpec

CHANNEL = QuantSpec(3, True, Granularity.CHANNEL)
SPECS = [CHANNEL, QuantSpec(2, False, Granularity.CHANNEL, clip="mse"), QuantSpec(4, True, Granularity.GROUP, 8),
         QuantSpec(3, False, Granularity.GROUP, 16, "mse"), QuantSpec(3, True, Granularity.CHANNEL, number_format="power"),
         QuantSpec(4, True, Granularity.CHANNEL, number_format="nvfp4")]


def problem(seed: int, rows: int = 6, width: int = 32, rank: int = 12):
    """A weight and the second moments of correlated inputs, float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, rank, generator=generator, dtype=torch.float64) @ torch.randn(rank, width, generator=generator, dtype=torch.float64)
    x = x + 0.3 * torch.randn(200, width, generator=generator, dtype=torch.float64)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64), 2 / len(x) * x.T @ x


def obq(weight, hessian, spec, damping):
    """Optimal brain quantization, one column after the other: explicit inverse, explicit removal of each column from it."""
    width = len(hessian)
    inverse = torch.linalg.inv(hessian + damping * hessian.diagonal().mean() * torch.eye(width, dtype=torch.float64))
    columns = Columns(weight, spec, static=True, order=torch.arange(width))
    left, result = weight.clone(), torch.empty_like(weight)
    for i in range(width):
        result[:, i] = columns.round(left[:, i], i)
        error = (left[:, i] - result[:, i]) / inverse[i, i]
        left = left - error[:, None] * inverse[i]
        inverse = inverse - torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return result


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spec", SPECS[:2] + SPECS[4:5])
def test_it_equals_obq(seed, spec):
    weight, hessian = problem(seed, width=160)  # two blocks
    factor, _ = inverse_factor(hessian, 0.01)
    swept = sweep(weight, factor, Columns(weight, spec, static=True, order=torch.arange(160)))
    torch.testing.assert_close(swept, obq(weight, hessian, spec, 0.01), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("spec", SPECS)
def test_it_is_never_worse_than_rounding_and_mostly_much_better(spec, act_order):
    better = []
    for seed in range(5):
        weight, hessian = problem(seed)
        found = gptq(weight, hessian, spec, act_order=act_order)
        rounded = objective(weight, fake_quantize(weight, spec), hessian)
        mine = objective(weight, found.weight, hessian)
        assert (mine <= rounded * (1 + 1e-9)).all()
        assert found.objective == pytest.approx(float(mine.sum()), rel=1e-6)
        assert found.rounded_objective == pytest.approx(float(rounded.sum()), rel=1e-6)
        better.append(float(mine.sum() / rounded.sum()))
    assert sum(better) / len(better) < 0.75


@pytest.mark.parametrize("spec", SPECS)
def test_independent_inputs_leave_nothing_to_compensate(spec):
    weight, hessian = problem(1)
    found = gptq(weight, torch.diag(hessian.diagonal()), spec, static_groups=True)
    torch.testing.assert_close(found.weight, fake_quantize(weight, spec), rtol=1e-12, atol=1e-12)


def test_many_bits_change_little():
    weight, hessian = problem(2)
    found = gptq(weight, hessian, QuantSpec(8, False, Granularity.CHANNEL))
    assert float((found.weight - weight).norm() / weight.norm()) < 0.02
    coarse = gptq(weight, hessian, QuantSpec(4, False, Granularity.CHANNEL))
    assert found.objective < coarse.objective / 50


@pytest.mark.parametrize("spec", [CHANNEL, QuantSpec(2, False, Granularity.CHANNEL, clip="mse")])
def test_act_order_does_not_depend_on_the_order_of_the_columns(spec):
    weight, hessian = problem(3)
    shuffle = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    straight = gptq(weight, hessian, spec, act_order=True).weight
    shuffled = gptq(weight[:, shuffle], hessian[shuffle][:, shuffle], spec, act_order=True).weight
    torch.testing.assert_close(shuffled, straight[:, shuffle], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("static", [True, False])
def test_groups_lie_on_their_grids(static):
    weight, hessian = problem(4, width=96)
    found = gptq(weight, hessian, QuantSpec(2, False, Granularity.GROUP, 24), static_groups=static).weight
    assert all(len(group.unique()) <= 4 for group in found.reshape(-1, 24))
    assert torch.equal(gptq(weight, hessian, QuantSpec(2, False, Granularity.GROUP, 24), static_groups=static).weight, found)


def test_static_groups_use_the_scales_of_the_original():
    weight, hessian = problem(4, width=64)
    spec = QuantSpec(3, True, Granularity.GROUP, 16)
    step = quantize(weight, spec).scale.step                                   # [N, groups, 1]
    codes = gptq(weight, hessian, spec, act_order=True).weight.unflatten(-1, (-1, 16)) / step
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-9)


def test_dead_columns_are_zero():
    weight, hessian = problem(5)
    hessian[3] = hessian[:, 3] = 0
    found = gptq(weight, hessian, CHANNEL)
    assert found.dead == 1 and not found.weight[:, 3].any() and torch.isfinite(found.weight).all()


def test_without_any_input_the_weight_is_rounded():
    weight, hessian = problem(5)
    found = gptq(weight, torch.zeros_like(hessian), CHANNEL)
    assert torch.equal(found.weight, fake_quantize(weight, CHANNEL)) and found.fallback_rows == len(weight)


def test_damping_grows_until_the_factorization_succeeds():
    weight, hessian = problem(6)
    broken = hessian - 0.5 * hessian.diagonal().mean() * torch.eye(32, dtype=torch.float64)  # not positive definite
    found = gptq(weight, broken, CHANNEL)
    assert found.damping > 0.01 and torch.isfinite(found.weight).all()
    assert gptq(weight, hessian, CHANNEL).damping == 0.01


def test_singular_and_undamped():
    weight, _ = problem(7)
    x = torch.ones(10, 32, dtype=torch.float64)
    assert torch.isfinite(gptq(weight, x.T @ x, CHANNEL, damping=0.0).weight).all()


def test_bad_inputs_are_refused_and_good_ones_left_alone():
    weight, hessian = problem(8)
    with pytest.raises(BadInput, match="not finite"):
        gptq(weight, hessian * float("nan"), CHANNEL)
    before = weight.clone(), hessian.clone()
    gptq(weight, hessian, CHANNEL, act_order=True)
    assert torch.equal(weight, before[0]) and torch.equal(hessian, before[1])
    assert gptq(weight.bfloat16(), hessian, CHANNEL).weight.dtype == torch.bfloat16
