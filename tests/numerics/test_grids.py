"""Fake quantization: on the grid, within half a step, and as the papers define it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rotviz.errors import BadInput
from rotviz.numerics.grids import code_range, fake_quantize, quantize, search_clip
from rotviz.types import BITS, Granularity, QuantSpec

QUANTIZED_BITS = [b for b in BITS if b < 16]


def draw(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(bits=st.sampled_from(QUANTIZED_BITS), symmetric=st.booleans(), group=st.sampled_from([0, 4, 8]), seed=st.integers(0, 999))
def test_codes_lie_on_the_grid_and_errors_within_half_a_step(bits, symmetric, group, seed):
    x = draw(5, 16, seed)
    q = quantize(x, QuantSpec(bits, symmetric, Granularity.TOKEN, group))
    low, high = code_range(q.spec)
    assert torch.equal(q.codes, q.codes.round()) and low <= q.codes.min() and q.codes.max() <= high
    error = (q.values() - x).abs().unflatten(-1, (q.scale.step.shape[-2], -1))
    # asymmetric grids round the zero point too, which can push the two ends half a step further out
    assert (error <= q.scale.step * (0.5 if symmetric else 1.0) * (1 + 1e-12)).all()


@settings(max_examples=25, deadline=None)
@given(bits=st.sampled_from(QUANTIZED_BITS), symmetric=st.booleans(), seed=st.integers(0, 999))
def test_rounding_twice_changes_nothing(bits, symmetric, seed):
    spec = QuantSpec(bits, symmetric)
    once = fake_quantize(draw(4, 32, seed), spec)
    torch.testing.assert_close(fake_quantize(once, spec), once, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("symmetric", [True, False])
def test_more_bits_lose_less(symmetric):
    x = draw(64, 128, 0)
    errors = [float((fake_quantize(x, QuantSpec(b, symmetric)) - x).square().sum()) for b in QUANTIZED_BITS]
    assert errors == sorted(errors, reverse=True)


def test_published_error_of_gaussian_rows():
    """METHODS.md 3: relative MSE of 4-bit rows of width 576, symmetric clip 1.0 and 0.9, asymmetric clip 1.0."""
    x = draw(4000, 576, 1)

    def relative(spec):
        return float((fake_quantize(x, spec) - x).square().sum() / x.square().sum())

    assert relative(QuantSpec(4, True)) == pytest.approx(0.01846, rel=0.02)
    assert relative(QuantSpec(4, True, clip=0.9)) == pytest.approx(0.01509, rel=0.02)
    assert relative(QuantSpec(4, False)) == pytest.approx(0.01412, rel=0.02)


def test_hadamard_of_a_spike_costs_nothing():
    """A constant-magnitude row, which a Hadamard matrix makes of a one-hot token, lies on a symmetric grid exactly."""
    row = torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=torch.float64) * 3.7
    torch.testing.assert_close(fake_quantize(row, QuantSpec(4, True)), row, rtol=1e-15, atol=0)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [0.0, 5.0, -0.25])
@pytest.mark.parametrize("group", [0, 4])
def test_constant_rows_are_finite(symmetric, value, group):
    x = torch.full((3, 8), value)
    out = fake_quantize(x, QuantSpec(3, symmetric, Granularity.TOKEN, group))
    assert torch.isfinite(out).all()
    if group and not symmetric:
        torch.testing.assert_close(out, x)


def test_range_includes_zero_over_a_whole_axis_but_not_over_groups():
    x = torch.tensor([[10.0, 10.5, 11.0, 11.5]])
    whole = quantize(x, QuantSpec(4, False))
    grouped = quantize(x, QuantSpec(4, False, Granularity.GROUP, 4))
    assert whole.scale.step.item() == pytest.approx(11.5 / 15)
    assert grouped.scale.step.item() == pytest.approx(1.5 / 15)


def test_mse_clip_is_the_best_of_its_candidates():
    x = torch.cat([draw(8, 64, 3), torch.full((8, 1), 12.0, dtype=torch.float64)], dim=1)
    spec = QuantSpec(3, True, Granularity.CHANNEL, clip="mse")

    def loss(clip):
        return (fake_quantize(x, QuantSpec(3, True, Granularity.CHANNEL, clip=clip)) - x).abs().pow(2.4).sum(-1)

    found = (fake_quantize(x, spec) - x).abs().pow(2.4).sum(-1)
    best = torch.stack([loss(1 - i / 100) for i in range(80)]).amin(0)
    torch.testing.assert_close(found, best, rtol=1e-9, atol=0)
    low, high = x.aminmax(dim=-1, keepdim=True)
    assert (search_clip(x[:, None], low[:, None], high[:, None], spec) < 1).all(), "one outlier of 12 is worth clipping"


def test_half_precision_is_rounded_in_float32():
    x = draw(4, 64, 5).to(torch.bfloat16)
    torch.testing.assert_close(fake_quantize(x, QuantSpec(4, True)), fake_quantize(x.float(), QuantSpec(4, True)).to(torch.bfloat16), rtol=0, atol=0)


def test_float_and_input_are_left_alone():
    x = draw(2, 8, 0)
    before = x.clone()
    assert fake_quantize(x, QuantSpec(16)) is x
    fake_quantize(x, QuantSpec(2, False, clip="mse"))
    assert torch.equal(x, before)


@pytest.mark.parametrize("bad", [{"bits": 0}, {"bits": 1}, {"bits": 17}, {"bits": 9}, {"clip": 0.0}, {"clip": 1.1}, {"clip": "best"}, {"group": -1}])
def test_impossible_specs_are_refused(bad):
    with pytest.raises(BadInput):
        QuantSpec(**{"bits": 4, **bad})


def test_group_that_does_not_divide_names_what_does():
    with pytest.raises(BadInput, match=r"48.*does not divide.*576.*192|group 7 does not divide the width 576"):
        fake_quantize(torch.zeros(1, 576), QuantSpec(4, True, Granularity.GROUP, 7))


def test_a_clip_search_that_is_remembered_is_the_search():
    """Large weights are searched once; the same contents give the same ratios, other contents or another grid their own."""
    weight = torch.randn(64, 600, generator=torch.Generator().manual_seed(0))
    spec = QuantSpec(4, True, Granularity.CHANNEL, clip="mse")
    first, again = fake_quantize(weight, spec), fake_quantize(weight.clone(), spec)
    assert torch.equal(first, again)
    rows = torch.cat([fake_quantize(weight[i:i + 8], spec) for i in range(0, 64, 8)])  # too small to be remembered
    assert torch.equal(first, rows)
    other = weight.clone()
    other[3, 5] = 40.0
    assert torch.equal(fake_quantize(other, spec)[4:], first[4:]) and not torch.equal(fake_quantize(other, spec)[3], first[3])
    assert not torch.equal(fake_quantize(weight, QuantSpec(3, True, Granularity.CHANNEL, clip="mse")), first)


class Divisors(TorchDispatchMode):
    """What is divided by."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.div, torch.ops.aten.div_):
            self.found.append(args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("spec", [QuantSpec(4), QuantSpec(4, False), QuantSpec(4, False, number_format="int_min")], ids=str)
def test_steps_are_divided_out_as_a_gpu_would_too(spec):
    """By a number that is no tensor, or a tensor of one number on the CPU, torch multiplies with the rounded reciprocal on a GPU."""
    with Divisors() as divisors:
        quantize(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)), spec)
    assert divisors.found and all(isinstance(by, torch.Tensor) and by.ndim for by in divisors.found)
