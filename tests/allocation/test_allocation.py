"""Bits under a budget: within it, optimal where that can be enumerated, ordered as the closed form says."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rotviz.allocation import ALLOCATIONS, CHOICES, Units, average_bits, is_budgeted, total_cost
from rotviz.allocation.greedy import _greedy, closed_form, hull, spend
from rotviz.allocation.sensitivity import Gradient, GradientSums, bits_by_name, row_costs, units_of
from rotviz.errors import BadInput
from rotviz.numerics.grids import fake_quantize
from rotviz.types import Granularity, QuantSpec

BUDGETED = [name for name in ALLOCATIONS if is_budgeted(ALLOCATIONS[name])]
SPEC = QuantSpec(4, True, Granularity.CHANNEL)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some_units(count: int, seed: int, equal: bool = False, choices=(2, 3, 4, 6, 8)) -> Units:
    draw = generator(seed)
    numbers = torch.full((count,), 64) if equal else 16 * torch.randint(1, 9, (count,), generator=draw)
    weight = torch.randn(count, generator=draw, dtype=torch.float64).exp()
    cost = (weight * numbers)[:, None] * 4.0 ** -torch.tensor(choices, dtype=torch.float64)
    noise = 1 + 0.3 * torch.rand(cost.shape, generator=draw, dtype=torch.float64)
    return Units(numbers, weight, cost * noise, choices)


def best_by_force(units: Units, budget: float) -> float:
    return min(total_cost(bits, units) for bits in map(torch.tensor, itertools.product(units.choices, repeat=len(units.numbers)))
               if average_bits(bits, units) <= budget + 1e-9)


@pytest.mark.parametrize("budget", [2, 2.5, 3.0, 3.7, 4.0, 5.1, 8.0])
@pytest.mark.parametrize("name", BUDGETED)
def test_every_strategy_meets_its_budget_and_nearly_spends_it(name, budget):
    for count, seed in ((7, 0), (200, 1)):
        units = some_units(count, seed)
        bits = ALLOCATIONS[name]().allocate(units, budget, generator())
        assert set(bits.tolist()) <= set(units.choices) and bits.shape == (count,)
        average = average_bits(bits, units)
        assert average <= budget + 1e-9
        if count == 200:
            assert average > budget - 0.1
        assert torch.equal(bits, ALLOCATIONS[name]().allocate(units, budget, generator())), "the same generator, the same bits"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), budget=st.sampled_from([2.2, 2.9, 3.5, 4.4, 5.0]), equal=st.booleans())
def test_it_is_optimal_where_all_can_be_tried(seed, budget, equal):
    units = some_units(4, seed, equal)
    assert total_cost(spend(units, budget), units) == pytest.approx(best_by_force(units, budget), rel=1e-12)


def test_greedy_is_optimal_where_its_last_stretch_ends_at_the_budget():
    """Convex costs and equal sizes with consecutive bits: every stretch is one bit of one unit, so any whole budget is met exactly."""
    for seed in range(10):
        units = some_units(5, seed, equal=True, choices=(2, 3, 4, 5))
        shrink = 4.0 ** -torch.arange(2.0, 6, dtype=torch.float64)
        convex = Units(units.numbers, units.magnitude, (units.magnitude * 64)[:, None] * shrink, (2, 3, 4, 5))
        for budget in (2.4, 3.0, 3.8):
            bits = _greedy(convex, convex.room(budget))
            assert total_cost(bits, convex) == pytest.approx(best_by_force(convex, budget), rel=1e-12)


def test_greedy_is_close_to_the_lagrangian_bound():
    """No allocation within the budget beats the dual value; with many units greedy comes within a percent of it."""
    units = some_units(500, 3)
    choices = torch.tensor(units.choices, dtype=torch.float64)
    room = 3.5 * float(units.numbers.sum())
    prices = torch.logspace(-6, 0, 400).tolist()
    dual = max(float((units.cost + price * units.numbers[:, None] * choices).amin(1).sum()) - price * room for price in prices)
    found = total_cost(spend(units, 3.5), units)
    assert dual <= found * (1 + 1e-9) and found <= dual * 1.01


def test_the_closed_form_is_what_it_approximates():
    """With c 4^-b and many choices the whole-number answer is the closed form rounded, up to the rounding itself."""
    draw = generator(5)
    cost = torch.randn(300, generator=draw, dtype=torch.float64).exp() * 100
    numbers = torch.full((300,), 100)
    choices = (2, 3, 4, 5, 6, 7, 8)
    units = Units(numbers, cost, cost[:, None] * 4.0 ** -torch.tensor(choices, dtype=torch.float64), choices)
    real = closed_form(cost, numbers, 4.5)
    assert float((real * numbers).sum() / numbers.sum()) == pytest.approx(4.5)
    whole = spend(units, 4.5)
    assert float((whole - real).abs().max()) < 1.01 and float((whole - real).mean().abs()) < 0.02


def test_importance_beats_the_others_on_its_own_measure():
    units = some_units(100, 7)
    costs = {name: total_cost(ALLOCATIONS[name]().allocate(units, 3.5, generator()), units) for name in BUDGETED}
    assert min(costs, key=costs.get) == "importance"
    assert costs["importance"] < 0.8 * costs["uniform"] and costs["random"] > costs["importance"]


def test_hull_leaves_out_what_no_price_would_choose():
    assert hull([2, 3, 4, 6, 8], [10, 9.9, 1, 0.9, 0.95]) == [0, 2, 3]
    assert hull([2, 3, 4], [1, 1, 1]) == [0]


@pytest.mark.parametrize("budget", [1.9, 17])
def test_impossible_budgets_are_refused(budget):
    with pytest.raises(BadInput, match="cannot be met"):
        spend(some_units(3, 0), budget)


def test_bad_units_are_refused():
    with pytest.raises(BadInput, match="ascend"):
        Units(torch.ones(1), torch.ones(1), torch.ones(1, 2), (4, 3))
    with pytest.raises(BadInput, match="shape"):
        Units(torch.ones(2), torch.ones(2), torch.ones(1, 2), (2, 3))


def test_sums_are_the_mean_gradient_and_the_mean_square_of_each_tokens():
    draw = generator(9)
    x, g = torch.randn(7, 32, generator=draw, dtype=torch.float64), torch.randn(7, 6, generator=draw, dtype=torch.float64)
    nothing = torch.zeros(6, 32, dtype=torch.float64)
    every, some = GradientSums.of(nothing), GradientSums.of(nothing, torch.tensor([1, 4]))
    for sums in (every, some):
        sums.add(x[:3], g[:3])
        sums.add(x[3:], g[3:])
    tokens = torch.einsum("tn,td->tnd", g, x)  # the gradient of each token's loss
    torch.testing.assert_close(every.mean(7).mean, tokens.mean(0))
    torch.testing.assert_close(every.mean(7).square, tokens.square().mean(0))
    torch.testing.assert_close(some.mean(7).square, tokens.square().mean(0)[[1, 4]])


def test_costs_are_the_formulas_and_fall_with_bits():
    draw = generator(9)
    weight = torch.randn(6, 32, generator=draw, dtype=torch.float64)
    gradient = Gradient(torch.randn(6, 32, generator=draw, dtype=torch.float64), torch.rand(6, 32, generator=draw, dtype=torch.float64))
    first, curvature, both = (row_costs(weight, gradient, SPEC, kind=kind) for kind in ("first", "curvature", "both"))
    error = weight - fake_quantize(weight, replace(SPEC, bits=3))
    column = CHOICES.index(3)
    torch.testing.assert_close(first[:, column], (gradient.mean * error).sum(-1).abs())
    torch.testing.assert_close(curvature[:, column], 0.5 * (gradient.square * error.square()).sum(-1))
    torch.testing.assert_close(both, first + curvature)
    assert (curvature[:, :-1] > curvature[:, 1:]).all()


def test_a_quadratic_loss_is_predicted():
    """Where the loss really is 1/2 sum h (w - w0)^2, the curvature cost with its true diagonal is the rise of the loss."""
    draw = generator(10)
    weight, h = torch.randn(4, 16, generator=draw, dtype=torch.float64), torch.rand(4, 16, generator=draw, dtype=torch.float64)
    predicted = row_costs(weight, Gradient(torch.zeros_like(h), h), SPEC, (3,), "curvature")[:, 0]
    rise = 0.5 * (h * (fake_quantize(weight, QuantSpec(3, True, Granularity.CHANNEL)) - weight).square()).sum(-1)
    torch.testing.assert_close(predicted, rise)


@pytest.mark.parametrize("by_row", [False, True])
def test_units_go_out_and_come_back_by_name(by_row):
    weights = {"a": torch.randn(3, 8, generator=generator()), "b": torch.randn(5, 16, generator=generator(1))}
    costs = {name: torch.rand(len(w), 5, generator=generator(2), dtype=torch.float64) for name, w in weights.items()}
    units = units_of(weights, costs, by_row)
    assert int(units.numbers.sum()) == 3 * 8 + 5 * 16 and len(units.numbers) == (8 if by_row else 2)
    named = bits_by_name(torch.arange(len(units.numbers)), weights, by_row)
    assert (named["b"].tolist() == [3, 4, 5, 6, 7] and len(named["a"]) == 3) if by_row else named == {"a": 0, "b": 1}
