"""Quantize and dequantize in Triton: a group is a row, read once, kept on chip between finding its range and rounding it.

Division is correctly rounded and rounding is half to even, so that codes, steps and zeros are those of the reference to the last bit.
"""

import triton
import triton.language as tl
from torch import Tensor

from rotviz.device import on_device_of
from rotviz.kernels.choice import interpreting
from rotviz.kernels.packed import Packed
from rotviz.kernels.tiles import divided, grid_codes, grid_scale, store_codes, stored
from rotviz.types import QuantSpec

TILE = 4_096
NUMBERS_PER_WARP = 1_024


@triton.jit
def quantize_kernel(
    x_ptr, data_ptr, step_ptr, zero_ptr, count, ratio,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, BITS: tl.constexpr, SYMMETRIC: tl.constexpr, MINIMUM: tl.constexpr,
    WITH_ZERO: tl.constexpr, PACKED: tl.constexpr,
):
    """Codes, steps and zeros of x [count, WIDTH]; WITH_ZERO stretches the range to include 0, MINIMUM keeps its lower end as it is."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)
    row_ok = row < count
    ok = row_ok[:, None] & (column < WIDTH)[None, :]
    x = tl.load(x_ptr + row[:, None] * WIDTH + column[None, :], mask=ok, other=0.0).to(tl.float32)
    inside = (column < WIDTH)[None, :]
    low = tl.min(tl.where(inside, x, float("inf")), axis=1)
    high = tl.max(tl.where(inside, x, float("-inf")), axis=1)
    if WITH_ZERO:
        low, high = tl.minimum(low, 0.0), tl.maximum(high, 0.0)
    step, zero = grid_scale(low * ratio, high * ratio, BITS, SYMMETRIC, MINIMUM)
    tl.store(step_ptr + row, step, mask=row_ok)
    if not SYMMETRIC:
        tl.store(zero_ptr + row, zero, mask=row_ok)
    codes = grid_codes(divided(x, step), zero[:, None], BITS, SYMMETRIC, MINIMUM, not (SYMMETRIC or MINIMUM or WITH_ZERO))
    store_codes(data_ptr, codes, row, row_ok, WIDTH, ROWS, PADDED, PACKED)


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
    count, padded = x.numel() // group, triton.next_power_of_2(group)
    rows = max(1, TILE // padded)
    warps = min(16, max(1, rows * padded // NUMBERS_PER_WARP))
    spec: QuantSpec = packed.spec
    with on_device_of(x):
        quantize_kernel[(triton.cdiv(count, rows),)](
            x, packed.data, packed.step, packed.step if packed.zero is None else packed.zero, count, ratio, WIDTH=group, PADDED=padded,
            ROWS=rows, BITS=spec.bits, SYMMETRIC=spec.symmetric, MINIMUM=spec.number_format == "int_min", WITH_ZERO=with_zero,
            PACKED=packed.two_a_byte, num_warps=warps,
            enable_fp_fusion=False)  # products with the clip are rounded before they are subtracted, as the reference does; what is to fuse says so


def launch_dequantize(packed: Packed, y: Tensor) -> None:
    """Write the numbers of `packed` into y (contiguous)."""
    block = 2048
    with on_device_of(y):
        dequantize_kernel[(triton.cdiv(y.numel(), block),)](
            packed.data, packed.step, packed.step if packed.zero is None else packed.zero, y, y.numel(), WIDTH=packed.width // packed.groups,
            SYMMETRIC=packed.spec.symmetric, PACKED=packed.two_a_byte, WIDE=interpreting(), BLOCK=block)
