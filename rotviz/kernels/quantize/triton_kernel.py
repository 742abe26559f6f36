"""Quantize, dequantize, and both at once in Triton: a group is a row, read once, kept on chip between finding its range and rounding it.

Division is correctly rounded and rounding is half to even, so that codes, steps and zeros are those of the reference to the last bit. Hence
`enable_fp_fusion=False`: products with the clip are rounded before they are subtracted, as the reference does; what is to fuse says so.
"""

import triton
import triton.language as tl
from torch import Tensor

from rotviz.device import on_device_of
from rotviz.kernels.choice import interpreting
from rotviz.kernels.packed import Packed
from rotviz.kernels.tiles import divided, grid_codes, row_scale, store_codes, stored
from rotviz.types import QuantSpec

TILE = 4_096
NUMBERS_PER_WARP = 1_024


@triton.jit
def codes_of(
    x_ptr, row, row_ok, ratio,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BITS: tl.constexpr, SYMMETRIC: tl.constexpr, MINIMUM: tl.constexpr, WITH_ZERO: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Codes int32 [R, PADDED], steps and zeros of the rows of x [count, WIDTH]."""
    column = tl.arange(0, PADDED)
    inside = (column < WIDTH)[None, :]
    x = tl.load(x_ptr + row[:, None] * WIDTH + column[None, :], mask=row_ok[:, None] & inside, other=0.0).to(tl.float32)
    step, zero = row_scale(x, inside, ratio, BITS, SYMMETRIC, MINIMUM, WITH_ZERO, WIDE)
    return grid_codes(divided(x, step), zero[:, None], BITS, SYMMETRIC, MINIMUM, not (SYMMETRIC or MINIMUM or WITH_ZERO)), step, zero


@triton.jit
def quantize_kernel(
    x_ptr, data_ptr, step_ptr, zero_ptr, count, ratio,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, BITS: tl.constexpr, SYMMETRIC: tl.constexpr, MINIMUM: tl.constexpr,
    WITH_ZERO: tl.constexpr, PACKED: tl.constexpr, WIDE: tl.constexpr,
):
    """Codes, steps and zeros of x [count, WIDTH]; WITH_ZERO stretches the range to include 0, MINIMUM keeps its lower end as it is."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row_ok = row < count
    codes, step, zero = codes_of(x_ptr, row, row_ok, ratio, WIDTH, PADDED, BITS, SYMMETRIC, MINIMUM, WITH_ZERO, WIDE)
    tl.store(step_ptr + row, step, mask=row_ok)
    if not SYMMETRIC:
        tl.store(zero_ptr + row, zero, mask=row_ok)
    store_codes(data_ptr, codes, row, row_ok, WIDTH, ROWS, PADDED, PACKED)


@triton.jit
def fake_quantize_kernel(
    x_ptr, y_ptr, count, ratio,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, BITS: tl.constexpr, SYMMETRIC: tl.constexpr, MINIMUM: tl.constexpr,
    WITH_ZERO: tl.constexpr, WIDE: tl.constexpr,
):
    """y = step (q - zero) of x [count, WIDTH]: the codes never leave the chip."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row_ok = row < count
    codes, step, zero = codes_of(x_ptr, row, row_ok, ratio, WIDTH, PADDED, BITS, SYMMETRIC, MINIMUM, WITH_ZERO, WIDE)
    y = codes.to(tl.float32)
    if not SYMMETRIC:
        y = y - zero[:, None]
    column = tl.arange(0, PADDED)
    tl.store(y_ptr + row[:, None] * WIDTH + column[None, :], stored(y * step[:, None], y_ptr.dtype.element_ty, WIDE),
             mask=row_ok[:, None] & (column < WIDTH)[None, :])


@triton.jit
def dequantize_kernel(
    data_ptr, step_ptr, zero_ptr, y_ptr, count,
    WIDTH: tl.constexpr, SYMMETRIC: tl.constexpr, PACKED: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):
    """y = step (q - zero) for `count` codes whose groups of WIDTH lie one after the other."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    place = start + tl.arange(0, BLOCK)
    ok = place < count
    if PACKED:
        half = start // 2 + tl.arange(0, BLOCK // 2)
        data = tl.load(data_ptr + half, mask=half < count // 2, other=0).to(tl.int32)
        codes = tl.reshape(tl.join(data & 15, data >> 4), (BLOCK,))
        if SYMMETRIC:
            codes = (codes ^ 8) - 8
    else:
        codes = tl.load(data_ptr + place, mask=ok, other=0).to(tl.int32)
    y = codes.to(tl.float32)
    if not SYMMETRIC:
        y = y - tl.load(zero_ptr + place // WIDTH, mask=ok, other=0.0)
    y = y * tl.load(step_ptr + place // WIDTH, mask=ok, other=0.0)
    tl.store(y_ptr + place, stored(y, y_ptr.dtype.element_ty, WIDE), mask=ok)


def launch_quantize(x: Tensor, packed: Packed, group: int, ratio: float, with_zero: bool) -> None:
    """Fill `packed` with the codes, steps and zeros of x (contiguous; its groups are runs of `group` numbers)."""
    grid, constants = _tiling(x, packed.spec, group, with_zero)
    with on_device_of(x):
        quantize_kernel[grid](
            x, packed.data, packed.step, packed.step if packed.zero is None else packed.zero, x.numel() // group, ratio, **constants,
            PACKED=packed.two_a_byte, enable_fp_fusion=False)


def launch_fake_quantize(x: Tensor, y: Tensor, spec: QuantSpec, group: int, ratio: float, with_zero: bool) -> None:
    """Write x, rounded to the grid and back, into y; both contiguous."""
    grid, constants = _tiling(x, spec, group, with_zero)
    with on_device_of(x):
        fake_quantize_kernel[grid](x, y, x.numel() // group, ratio, **constants, enable_fp_fusion=False)


def _tiling(x: Tensor, spec: QuantSpec, group: int, with_zero: bool) -> tuple[tuple[int], dict[str, int | bool]]:
    """The grid, and the compile-time numbers that both kernels share."""
    padded = triton.next_power_of_2(group)
    rows = max(1, TILE // padded)
    return (triton.cdiv(x.numel() // group, rows),), {
        "WIDTH": group, "PADDED": padded, "ROWS": rows, "BITS": spec.bits, "SYMMETRIC": spec.symmetric,
        "MINIMUM": spec.number_format == "int_min", "WITH_ZERO": with_zero, "WIDE": interpreting(),
        "num_warps": min(16, max(1, rows * padded // NUMBERS_PER_WARP))}


def launch_dequantize(packed: Packed, y: Tensor) -> None:
    """Write the numbers of `packed` into y (contiguous)."""
    block = 2048
    with on_device_of(y):
        dequantize_kernel[(triton.cdiv(y.numel(), block),)](
            packed.data, packed.step, packed.step if packed.zero is None else packed.zero, y, y.numel(), WIDTH=packed.width // packed.groups,
            SYMMETRIC=packed.spec.symmetric, PACKED=packed.two_a_byte, WIDE=interpreting(), BLOCK=block)
