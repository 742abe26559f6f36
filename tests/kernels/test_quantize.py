"""Packing, quantizing and dequantizing: the kernels' codes, steps and zeros are those of rotviz.numerics.grids to the last bit."""

import pytest
import torch
from judging import draw, signs_for

from rotviz.errors import BadInput
from rotviz.kernels.hadamard_quantize import hadamard_quantize
from rotviz.kernels.packed import pack as pack_quantized
from rotviz.kernels.packing import pack, unpack
from rotviz.kernels.quantize import as_it_lies, dequantize, fake_quantize, quantize
from rotviz.numerics import grids
from rotviz.numerics.rotation import HadamardRotation
from rotviz.types import Granularity, QuantSpec

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
GROUPS = {"token": (Granularity.TOKEN, 0), "groups of 36": (Granularity.GROUP, 36), "heads of 64": (Granularity.HEAD, 64)}


def awkward(rows, width, dtype, device):
    """Rows among which one is zero, one constant, one positive, and one holds a massive token's spike."""
    x = draw(rows, width, device=device)
    if rows > 3:
        x[0], x[1], x[2] = 0.0, 3.0, x[2].abs() + 100
        x[3, 7] = 20_000.0
    return x.to(dtype)


@pytest.mark.parametrize("shape", [(1, 2), (3, 64), (17, 130), (2, 3, 1030)], ids=str)
@pytest.mark.parametrize("signed", [True, False])
def test_two_codes_a_byte_and_back(shape, signed, device):
    low, high = (-8, 8) if signed else (0, 16)
    codes = torch.randint(low, high, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(0)).to(device)
    data = pack(codes, backend="triton")
    assert torch.equal(data, pack(codes, backend="torch")) and data.shape == (*shape[:-1], shape[-1] // 2)
    for backend in ("torch", "triton"):
        assert torch.equal(unpack(data, signed=signed, backend=backend), codes)


def test_the_layout_is_the_documented_one():
    assert pack(torch.tensor([1, 2, -1, -8])).tolist() == [0x21, 0x8F]
    assert unpack(torch.tensor([0x8F], dtype=torch.uint8), signed=False).tolist() == [15, 8]
    with pytest.raises(BadInput, match="even"):
        pack(torch.ones(2, 3, dtype=torch.int8))
    with pytest.raises(BadInput, match="uint8"):
        unpack(torch.ones(2, 3), signed=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("where", GROUPS)
def test_codes_are_those_of_the_grids(where, bits, symmetric, dtype, device):
    granularity, group = GROUPS[where]
    spec = QuantSpec(bits, symmetric, granularity, group, clip=0.9)
    x = awkward(17 if bits == 4 else 4, 576, dtype, device)
    ours, plain = quantize(x, spec, backend="triton"), grids.quantize(x, spec)
    assert torch.equal(ours.codes().float(), plain.codes)
    assert torch.equal(ours.step, plain.scale.step.squeeze(-1))
    assert (ours.zero is None) if symmetric else torch.equal(ours.zero, plain.scale.zero.squeeze(-1))
    for backend in ("torch", "triton"):
        assert torch.equal(dequantize(ours, backend=backend), grids.fake_quantize(x, spec))
        assert torch.equal(fake_quantize(x, spec, backend=backend), grids.fake_quantize(x, spec))
    assert ours.nbytes == x.numel() * (1 if bits == 8 else 0.5) + 4 * ours.step.numel() * (1 if symmetric else 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("where", GROUPS)
def test_with_a_float_minimum_the_codes_are_those_of_the_grids(where, bits, dtype, device):
    granularity, group = GROUPS[where]
    spec = QuantSpec(bits, False, granularity, group, clip="none", number_format="int_min")
    x = awkward(6, 576, dtype, device)
    ours, plain = quantize(x, spec, backend="triton"), grids.quantize(x, spec)
    assert torch.equal(ours.codes().float(), plain.codes) and torch.equal(ours.zero, plain.scale.zero.squeeze(-1))
    assert not torch.equal(ours.zero, ours.zero.round()), "or the test would say nothing"
    for backend in ("torch", "triton"):
        assert torch.equal(dequantize(ours, backend=backend), grids.fake_quantize(x, spec))
        assert torch.equal(fake_quantize(x, spec, backend=backend), grids.fake_quantize(x, spec))
    with pytest.raises(BadInput, match="transform first"):
        hadamard_quantize(x, QuantSpec(bits, False, number_format="int_min"))


@pytest.mark.parametrize("exponent", [-140, -126, -90, -64, 0, 64, 100, 120])
@pytest.mark.parametrize("symmetric", [True, False])
def test_ties_tiny_and_huge_numbers(symmetric, exponent, device):
    """Numbers next to the boundary between two levels, where a quotient one unit in the last place off would round the other way."""
    peak = torch.rand(24, 1, generator=torch.Generator().manual_seed(0)).add(1).mul(2.0**exponent)
    step = peak / 7 if symmetric else peak / 15
    tie = (torch.arange(-8 if symmetric else 0, 7 if symmetric else 15) + 0.5) * step
    x = torch.cat([peak, tie, tie.nextafter(2 * tie), tie.nextafter(0 * tie), peak * 2.0**-24, 0 * peak], dim=1).to(device)
    spec = QuantSpec(4, symmetric, clip=1.0 if symmetric else "none")
    ours, plain = quantize(x, spec, backend="triton"), grids.quantize(x, spec)
    assert torch.equal(ours.codes().float(), plain.codes) and torch.equal(ours.step, plain.scale.step.squeeze(-1))
    assert torch.equal(fake_quantize(x, spec, backend="triton"), grids.fake_quantize(x, spec))


@pytest.mark.parametrize("spec", [QuantSpec(4), QuantSpec(4, False), QuantSpec(8, False, Granularity.GROUP, 32, clip=0.9),
                                  QuantSpec(4, False, clip="none", number_format="int_min")], ids=str)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter is numpy
@pytest.mark.parametrize("wild", [float("nan"), float("inf"), float("-inf"), 3e38])
def test_what_is_not_finite_stays_visible(wild, spec, device):
    """A group that holds a NaN or an infinity, or whose range overflows, comes back as NaN throughout, and its neighbors as ever."""
    x = draw(3, 64, device=device)
    x[1, 40], x[1, 41] = wild, -3e38
    plain = grids.fake_quantize(x, spec)
    ours = (fake_quantize(x, spec, backend="triton"), dequantize(quantize(x, spec, backend="triton"), backend="triton"))
    for values in ours:
        assert torch.equal(values.isnan(), plain.isnan()) and torch.equal(values.nan_to_num(), plain.nan_to_num())
    assert plain.isnan()[1].any() == (not spec.symmetric or wild != 3e38)
    if spec.granularity == Granularity.TOKEN and spec.number_format == "int":
        x[1, 41] = 1.0
        turned = hadamard_quantize(x, spec, backend="triton")
        assert dequantize(turned)[1].isnan().all() == (wild != 3e38) and dequantize(turned)[0].isfinite().all()


def test_rounding_in_one_step_takes_any_tensor(device):
    """Odd widths, which packed codes refuse; heads that do not lie in memory one after the other; nothing; what a gradient or another grid needs."""
    x = draw(2, 5, 3, 9, device=device)
    for y, spec in ((x, QuantSpec(4)), (x.transpose(1, 2), QuantSpec(4, False, Granularity.HEAD)), (x[:, ::2], QuantSpec(4)),
                    (x.transpose(0, 3), QuantSpec(4)), (x[0, 0, 0], QuantSpec(4)), (x[:0], QuantSpec(4)), (x, QuantSpec(16))):
        assert torch.equal(fake_quantize(y, spec, backend="triton"), grids.fake_quantize(y, spec))
    heads = x.transpose(1, 2)
    assert as_it_lies(heads)[0].data_ptr() == heads.data_ptr() and fake_quantize(heads, QuantSpec(4), backend="triton").stride() == heads.stride()
    learned, fp8 = x.clone().requires_grad_(), QuantSpec(8, number_format="fp8")
    for y, spec, words in ((learned, QuantSpec(4), "no gradient"), (x, fp8, "not to fp8"), (x.double(), QuantSpec(4), "not torch.float64")):
        assert torch.equal(fake_quantize(y, spec), grids.fake_quantize(y, spec))
        with pytest.raises(BadInput, match=words):
            fake_quantize(y, spec, backend="triton")
    assert torch.equal(fake_quantize(learned.detach(), QuantSpec(4), backend="triton"), grids.fake_quantize(x, QuantSpec(4)))


@pytest.mark.parametrize("width, rows", [(64, 1), (1536, 3), (1030, 17)])
def test_awkward_sizes(width, rows, device):
    x = awkward(rows, width, torch.bfloat16, device)
    spec = QuantSpec(4, False)
    ours = quantize(x, spec, backend="triton")
    assert torch.equal(dequantize(ours, backend="triton"), grids.fake_quantize(x, spec))


def test_a_searched_clip_is_left_to_the_reference(device):
    spec = QuantSpec(4, True, Granularity.CHANNEL, clip="mse")
    weight = draw(8, 64)
    assert torch.equal(dequantize(quantize(weight, spec)), grids.fake_quantize(weight, spec))
    with pytest.raises(BadInput, match="searched"):
        quantize(weight, spec, backend="triton")
    with pytest.raises(BadInput, match="fixed ratio"):
        hadamard_quantize(weight, QuantSpec(4, True, clip="mse"))


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(BadInput, match="integer grid"):
        quantize(torch.ones(2, 4), QuantSpec(16))
    with pytest.raises(BadInput, match="even width"):
        quantize(torch.ones(2, 5), QuantSpec(4))
    with pytest.raises(BadInput, match="does not divide"):
        quantize(torch.ones(2, 64), QuantSpec(4, group=24))
    odd = draw(2, 5)
    assert torch.equal(dequantize(quantize(odd, QuantSpec(8))), grids.fake_quantize(odd, QuantSpec(8))), "a byte a code needs no even width"


def test_weights_that_a_quantizer_made_are_packed_as_they_are():
    spec = QuantSpec(4, False, Granularity.GROUP, 32)
    made = grids.quantize(draw(6, 64), spec)
    assert torch.equal(dequantize(pack_quantized(made)), made.values())


@pytest.mark.parametrize("n, rows", [(64, 3), (576, 17), (1536, 1), (344, 3), (896, 3)])
@pytest.mark.parametrize("bits, symmetric", [(4, True), (4, False), (8, True), (8, False)])
def test_transform_and_quantize_in_one(n, rows, bits, symmetric, device):
    spec, signs = QuantSpec(bits, symmetric, clip=0.9), signs_for(n, device)
    for dtype in DTYPES:
        x = draw(rows, n, dtype=dtype, device=device)
        ours, plain = (hadamard_quantize(x, spec, signs, backend=backend) for backend in ("triton", "torch"))
        # 16-bit rows keep 16 bits between the factors of the transform: a few units of 2^-16 in the step
        torch.testing.assert_close(ours.step, plain.step, rtol=8 * 2.0**-16 if dtype != torch.float32 else 8 * 2.0**-23, atol=0)
        assert symmetric or torch.equal(ours.zero, plain.zero)
        turned = HadamardRotation(n, signs.double()).apply(x.double())
        scaled = turned / plain.step.double()
        off = ours.codes() != plain.codes()
        to_a_tie = ((scaled - scaled.floor()) - 0.5).abs()
        # a code differs only where the number stood on the fence between two
        assert ((ours.codes() - plain.codes()).abs() <= 1).all() and (to_a_tie[off] < 2 ** (bits - 1) * 16 * 2.0**-16).all()
        assert float(off.double().mean()) < 0.02
        wrong, allowed = (dequantize(p).double() - turned for p in (ours, plain))
        assert wrong.norm() <= 1.01 * allowed.norm()


def test_the_fused_transform_is_per_token():
    with pytest.raises(BadInput, match="one scale"):
        hadamard_quantize(torch.ones(2, 64), QuantSpec(4, group=32))
    zeros = hadamard_quantize(torch.zeros(2, 64), QuantSpec(4, False), backend="triton")
    assert (zeros.step == 1).all() and (dequantize(zeros) == 0).all()
