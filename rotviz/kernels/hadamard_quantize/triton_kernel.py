"""Transform and quantize in one kernel: the rows that `turned` leaves on chip are rounded there and leave as codes.

The multiplication by 1 / step takes the place of the division by step: it moves x / step by at most two units in the last place of float32, as much
as the transform's own rounding does.
"""

import triton
import triton.language as tl
from torch import Tensor

from rotviz.device import on_device_of
from rotviz.kernels.hadamard.triton_kernel import constants, prepared, turned
from rotviz.kernels.packed import Packed
from rotviz.kernels.tiles import grid_codes, row_scale, store_codes


@triton.jit
def hadamard_quantize_kernel(
    x_ptr, data_ptr, step_ptr, zero_ptr, table_ptr, signs_ptr, count, table_in, table_out, scale, ratio,
    N: tl.constexpr, FIRST: tl.constexpr, MIDDLE: tl.constexpr, LAST: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr, SIGNED: tl.constexpr, PIECES_FIRST: tl.constexpr, PIECES: tl.constexpr, WIDE: tl.constexpr,
    BITS: tl.constexpr, SYMMETRIC: tl.constexpr, PACKED: tl.constexpr,
):
    """Codes, steps and zeros of x D H / sqrt(n), a scale a row."""
    first_row = tl.program_id(0) * ROWS
    y = turned(x_ptr, table_ptr, signs_ptr, first_row, count, table_in, table_out, scale,
               N, FIRST, MIDDLE, LAST, PADDED, ROWS, CHUNK, SIGNED, PIECES_FIRST, PIECES, WIDE)
    row = (first_row + tl.arange(0, ROWS)).to(tl.int64)
    inside = (tl.arange(0, PADDED * MIDDLE * LAST) < N)[None, :]
    y = tl.where(inside, y, 0.0)
    step, zero = row_scale(y, inside, ratio, BITS, SYMMETRIC, False, True, WIDE)
    tl.store(step_ptr + row, step, mask=row < count)
    if not SYMMETRIC:
        tl.store(zero_ptr + row, zero, mask=row < count)
    codes = grid_codes(y * (1.0 / step)[:, None], zero[:, None], BITS, SYMMETRIC, False, False)
    store_codes(data_ptr, codes, row, row < count, N, ROWS, PADDED * MIDDLE * LAST, PACKED)


def launch(x: Tensor, packed: Packed, signs: Tensor | None, ratio: float) -> None:
    """Fill `packed` with the codes of x [T, n] (contiguous) after the transform; signs int8 [n] or None."""
    cut, table = prepared(x.shape[-1], x)
    spec = packed.spec
    with on_device_of(x):
        hadamard_quantize_kernel[(triton.cdiv(x.shape[0], cut.rows),)](
            x, packed.data, packed.step, packed.step if packed.zero is None else packed.zero, table, table if signs is None else signs,
            x.shape[0], cut.padded, 1, cut.n**-0.5, ratio, **constants(cut, x), SIGNED=signs is not None, BITS=spec.bits,
            SYMMETRIC=spec.symmetric, PACKED=packed.two_a_byte, num_warps=cut.warps)
