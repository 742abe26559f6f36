"""Products of integer codes in Triton: int8 tensor cores with int32 sums; 4-bit codes are widened to int8 in registers. See README.md.

GPUs since Hopper multiply no 4-bit integers, so int4 x int4 saves memory and bandwidth against int8 x int8, not multiplications. The even and
odd channels of packed codes are multiplied apart, so nothing is shuffled. Unsigned codes are moved down by half their range, their zeros too.
"""

import triton
import triton.language as tl
from torch import Tensor

from rotviz.device import on_device_of
from rotviz.kernels.choice import interpreting
from rotviz.kernels.packed import Packed
from rotviz.kernels.tiles import stored, tile_place

DECODE_ROWS = 16
HALVES = tl.constexpr("""{
    .reg .b32 word;
    mov.b32 word, $2;
    and.b32 $1, word, 0xF0F0F0F0;
    shl.b32 word, word, 4;
    and.b32 $0, word, 0xF0F0F0F0;
}""")
HALVES_FLIPPED = tl.constexpr(HALVES.value.replace("mov.b32 word, $2", "xor.b32 word, $2, 0x88888888"))
"""Four packed bytes ($2) as four int8 of the even ($0) and four of the odd channels ($1), 16 times the codes; unsigned ones less 8."""


@triton.jit
def planes(ptr, ok, SIGNED: tl.constexpr, PACKED: tl.constexpr, WIDE: tl.constexpr):
    """The codes at a tile of addresses as int8, unsigned ones less half their range: 16 times those of the even and odd channels, or one tile twice.

    A code in the upper half of a byte is 16 times itself as int8, its sign in place. Four bytes of a register are taken apart at once, which the
    compiler does not find by itself: hence the assembly, and under the interpreter (WIDE) the same a byte at a time.
    """
    data = tl.load(ptr, mask=ok, other=0)
    if not PACKED:
        whole = (data if SIGNED else data ^ 0x80).to(tl.int8, bitcast=True)
        return whole, whole
    if WIDE:
        signed = data if SIGNED else data ^ 0x88
        return (signed << 4).to(tl.int8, bitcast=True), (signed & 0xF0).to(tl.int8, bitcast=True)
    return tl.inline_asm_elementwise(
        HALVES if SIGNED else HALVES_FLIPPED, "=&r,=&r,r", [data], dtype=(tl.int8, tl.int8), is_pure=True, pack=4)


@triton.jit
def integer_matmul_kernel(
    x_ptr, x_step_ptr, x_zero_ptr, w_ptr, w_step_ptr, w_sum_ptr, y_ptr, rows, channels,
    D: tl.constexpr, X_SIGNED: tl.constexpr, PACKED: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    """One tile [BLOCK_M, BLOCK_N] of s_t s_n (q w^T - z_t sum w)."""
    row_tile, channel_tile = tile_place(rows, channels, BLOCK_M, BLOCK_N)
    m = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    n = channel_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    PER_ROW: tl.constexpr = D // 2 if PACKED else D
    BYTES: tl.constexpr = BLOCK_K // 2 if PACKED else BLOCK_K
    x_row = x_ptr + m.to(tl.int64)[:, None] * PER_ROW
    w_row = w_ptr + n.to(tl.int64)[:, None] * PER_ROW
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    for start in range(0, PER_ROW, BYTES):
        place = start + tl.arange(0, BYTES)
        inside = (place < PER_ROW)[None, :]
        x_even, x_odd = planes(x_row + place[None, :], (m < rows)[:, None] & inside, X_SIGNED, PACKED, WIDE)
        w_even, w_odd = planes(w_row + place[None, :], (n < channels)[:, None] & inside, True, PACKED, WIDE)
        acc = tl.dot(x_even, tl.trans(w_even), acc, out_dtype=tl.int32)
        if PACKED:
            acc = tl.dot(x_odd, tl.trans(w_odd), acc, out_dtype=tl.int32)
    if PACKED:
        acc >>= 8  # exact: both factors were 16 times their codes
    if not X_SIGNED:
        zero = tl.load(x_zero_ptr + m, mask=m < rows, other=0.0).to(tl.int32) - (8 if PACKED else 128)
        acc -= zero[:, None] * tl.load(w_sum_ptr + n, mask=n < channels, other=0)[None, :]
    x_step = tl.load(x_step_ptr + m, mask=m < rows, other=0.0)
    w_step = tl.load(w_step_ptr + n, mask=n < channels, other=0.0)
    y = acc.to(tl.float32) * x_step[:, None] * w_step[None, :]
    out = y_ptr + m.to(tl.int64)[:, None] * channels + n[None, :]
    tl.store(out, stored(y, y_ptr.dtype.element_ty, WIDE), mask=(m < rows)[:, None] & (n < channels)[None, :])


def launch(x: Packed, weight: Packed, sums: Tensor, y: Tensor) -> None:
    """Write the product of x [M, D] and weight [N, D] into y [M, N]; sums int32 [N] of the weights' codes. All contiguous."""
    rows, channels = y.shape
    block_m, block_n, warps = (16, 64, 4) if rows <= DECODE_ROWS else (128, 128, 8)
    with on_device_of(y):
        integer_matmul_kernel[(triton.cdiv(channels, block_n) * triton.cdiv(rows, block_m),)](
            x.data, x.step, x.step if x.zero is None else x.zero, weight.data, weight.step, sums, y, rows, channels, D=x.width,
            X_SIGNED=x.spec.symmetric, PACKED=x.two_a_byte, WIDE=interpreting(), BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=128,
            num_warps=warps)
