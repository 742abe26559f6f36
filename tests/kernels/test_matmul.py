"""Products with packed weights and of integer codes: as exact as torch allows, at awkward sizes, for one row and for many."""

import re

import pytest
import torch
from judging import assert_at_most_twice_as_wrong, draw

from rotviz.errors import BadInput
from rotviz.kernels.integer_matmul import channel_sums, integer_matmul
from rotviz.kernels.quantize import dequantize, quantize
from rotviz.kernels.weight_only_matmul import weight_only_matmul
from rotviz.types import Granularity, QuantSpec


def packed_weight(rows, width, bits, symmetric, group, device):
    granularity = Granularity.GROUP if group else Granularity.CHANNEL
    return quantize(draw(rows, width, device=device, seed=1), QuantSpec(bits, symmetric, granularity, group))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bits, symmetric", [(4, True), (4, False), (8, False), (8, True)])
@pytest.mark.parametrize("width, group", [(576, 64), (160, 32), (80, 0)])
def test_packed_weights(width, group, bits, symmetric, dtype, device):
    weight = packed_weight(75, width, bits, symmetric, group, device)
    for rows in (3, 17):
        x = draw(rows, width, dtype=dtype, device=device)
        ours = weight_only_matmul(x, weight, backend="triton")
        plain = x @ dequantize(weight, backend="torch").to(dtype).T
        assert_at_most_twice_as_wrong(ours, plain, weight_only_matmul(x.double(), weight, backend="torch"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_weights_with_a_float_minimum(dtype, device):
    """The zero is no whole number: codes less the zero are rounded as a 16-bit weight would be."""
    weight = quantize(draw(75, 576, device=device, seed=1), QuantSpec(4, False, Granularity.GROUP, 32, number_format="int_min"))
    for rows in (3, 17):
        x = draw(rows, 576, dtype=dtype, device=device)
        plain = x @ dequantize(weight, backend="torch").to(dtype).T
        truth = weight_only_matmul(x.double(), weight, backend="torch")
        assert_at_most_twice_as_wrong(weight_only_matmul(x, weight, backend="triton"), plain, truth)


@pytest.mark.parametrize("splits", [1, 2, 4])
def test_a_row_may_be_split_over_programs(splits, device):
    from rotviz.kernels.weight_only_matmul.triton_kernel import launch

    weight, x = packed_weight(40, 576, 4, False, 64, device), draw(1, 576, dtype=torch.float16, device=device)
    y = torch.empty(1, 40, dtype=torch.float16, device=device)
    launch(x, weight, y, splits)
    assert_at_most_twice_as_wrong(y, weight_only_matmul(x, weight, backend="torch"), weight_only_matmul(x.double(), weight, backend="torch"))


def test_weights_far_from_zero(device):
    """A group without 0 in its range has a zero of a thousand: the codes less the zero do not fit 8 bits, and must not be cut."""
    weight = quantize(draw(8, 64, device=device) * 0.01 + 5, QuantSpec(4, False, Granularity.GROUP, 32))
    assert weight.zero.abs().max() > 1000
    x = draw(2, 64, device=device)
    plain = x @ dequantize(weight, backend="torch").T
    assert_at_most_twice_as_wrong(weight_only_matmul(x, weight, backend="triton"), plain, weight_only_matmul(x.double(), weight, backend="torch"))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("width", [80, 576])
def test_integer_products_are_exact(width, symmetric, bits, device):
    weight = packed_weight(75, width, bits, True, 0, device)
    for rows in (1, 17):
        x = quantize(draw(rows, width, device=device) + 0.5, QuantSpec(bits, symmetric, clip=0.9))
        ours = integer_matmul(x, weight, backend="triton")
        assert torch.equal(ours, integer_matmul(x, weight, backend="torch"))
        assert torch.equal(ours, integer_matmul(x, weight, channel_sums(weight), backend="triton"))
        truth = dequantize(x, backend="torch").double() @ dequantize(weight, backend="torch").double().T
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=float(truth.abs().max()) * 8 * 2.0**-23)


def test_every_tile_is_made_once(device):
    """More strips of rows than go together, the last of them short, and more than one strip of channels."""
    x, codes = draw(64 * 9 + 1, 64, dtype=torch.float16, device=device), quantize(draw(128 * 9 + 1, 64, device=device), QuantSpec(4))
    weight = packed_weight(130, 64, 4, True, 0, device)
    ours = weight_only_matmul(x, weight, backend="triton")
    assert_at_most_twice_as_wrong(ours, weight_only_matmul(x, weight, backend="torch"), weight_only_matmul(x.double(), weight, backend="torch"))
    assert torch.equal(integer_matmul(codes, weight, backend="triton"), integer_matmul(codes, weight, backend="torch"))


@pytest.mark.parametrize("signed", [True, False])
def test_the_assembly_takes_bytes_apart(signed):
    """The interpreter takes another branch, so the four instructions are carried out here, on every byte in every place of a register."""
    from rotviz.kernels.integer_matmul import triton_kernel

    text = (triton_kernel.HALVES if signed else triton_kernel.HALVES_FLIPPED).value
    operations = {"mov": lambda a: a, "and": lambda a, b: a & b, "xor": lambda a, b: a ^ b, "shl": lambda a, b: a << b & 0xFFFFFFFF}
    for byte in range(256):
        data = bytes((byte * k + 37 * k) % 256 for k in (1, 3, 5, 7))
        held = {"$2": int.from_bytes(data, "little")}
        for name, target, *sources in re.findall(r"(mov|and|xor|shl)\.b32 (\S+), (\S+?)(?:, (\S+))?;", text):
            held[target] = operations[name](*(held[s] if s in held else int(s, 0) for s in sources if s))
        for register, codes in (("$0", [d & 15 for d in data]), ("$1", [d >> 4 for d in data])):
            wanted = [16 * ((c ^ 8) - 8) if signed else 16 * (c - 8) for c in codes]
            assert [b - 256 if b > 127 else b for b in held[register].to_bytes(4, "little")] == wanted


def test_the_largest_sums_fit(device):
    width = 65_534
    weight = quantize(torch.ones(1, width, device=device), QuantSpec(8, True, Granularity.CHANNEL))
    x = quantize(torch.ones(1, width, device=device), QuantSpec(8, False))
    assert float(integer_matmul(x, weight, backend="triton")) == pytest.approx(width, rel=1e-6)


def test_products_that_do_not_fit_are_refused(device):
    weight = packed_weight(8, 64, 4, True, 0, device)
    with pytest.raises(BadInput, match="cannot multiply"):
        weight_only_matmul(torch.ones(1, 32), weight)
    with pytest.raises(BadInput, match="multiple of 32"):
        weight_only_matmul(torch.ones(1, 96, device=device), packed_weight(8, 96, 4, True, 48, device), backend="triton")
    with pytest.raises(BadInput, match="symmetric weights"):
        integer_matmul(quantize(torch.ones(1, 64), QuantSpec(4)), packed_weight(8, 64, 4, False, 0, "cpu"))
    with pytest.raises(BadInput, match="half a byte"):
        integer_matmul(quantize(torch.ones(1, 64, device=device), QuantSpec(8)), weight, backend="triton")
    minima = quantize(torch.ones(1, 64, device=device), QuantSpec(4, False, number_format="int_min", clip="none"))
    with pytest.raises(BadInput, match="not whole"):
        integer_matmul(minima, weight, backend="triton")


def test_any_leading_axes(device):
    weight, x = packed_weight(8, 64, 4, True, 0, device), draw(2, 3, 64, device=device)
    assert weight_only_matmul(x, weight, backend="triton").shape == (2, 3, 8)
    assert integer_matmul(quantize(x, QuantSpec(4)), weight, backend="triton").shape == (2, 3, 8)
    assert weight_only_matmul(x[:0], weight, backend="triton").shape == (0, 3, 8)
