"""Pieces that several Triton kernels share. Imports Triton, so only the kernels themselves import this file.

Exact products with matrices of +-1. A tensor core multiplies 16-bit numbers and adds in float32. A float32 number is the sum of three bfloat16
pieces of 8 bits each (24 bits of mantissa, the same range of exponents), and a product with +-1 is exact, so

    x H = x_1 H + x_2 H + x_3 H,    x_1 = bf16(x),  x_2 = bf16(x - x_1),  x_3 = bf16(x - x_1 - x_2)

loses nothing but the rounding of float32 sums. Two pieces keep 16 bits, which is enough where the result is rounded to 8 or 11 bits.
TF32 has 11 bits, costs as much as two pieces and cuts instead of rounding on some hardware; float32 without tensor cores is slower by far.

Rounding is half to even, as torch.round, by adding and subtracting 1.5 * 2^23; from 2^22 on, where that loses a bit, by floor(v + 1/2).
Triton's interpreter (read in 3.9) works on the bit patterns of bfloat16: products of two such numbers are wrong, and float32 is cut, not
rounded, on its way to bfloat16. So kernels multiply bfloat16 numbers in tl.dot alone, and under the interpreter (WIDE) they are widened to
float32 before that, which changes no number, and `stored` rounds by hand.
"""

import triton
import triton.language as tl


@triton.jit
def tile_place(rows, channels, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Which tile of a product a program makes: strips of rows eight at a time, and within them tile by tile down and along, so that programs
    which run at the same time read the same rows and weights. One axis of the grid, which may be as long as 2^31 (others end at 65,535)."""
    down, along = tl.cdiv(rows, BLOCK_M), tl.cdiv(channels, BLOCK_N)
    program = tl.program_id(0)
    return tl.swizzle2d(program // along, program % along, down, along, 8)


@triton.jit
def sylvester_tile(SIZE: tl.constexpr, ORDER: tl.constexpr):
    """I (x) S_ORDER as float32 [SIZE, SIZE], ORDER a divisor of SIZE: S[i, j] = (-1)^(ones in i AND j)."""
    i = tl.arange(0, SIZE)[:, None]
    j = tl.arange(0, SIZE)[None, :]
    ones = (i % ORDER) & (j % ORDER)
    ones ^= ones >> 8
    ones ^= ones >> 4
    ones ^= ones >> 2
    ones ^= ones >> 1
    sign = (1 - 2 * (ones & 1)).to(tl.float32)
    return tl.where((i // ORDER) == (j // ORDER), sign, 0.0)


@triton.jit
def dot_exact(x, h, acc, PIECES: tl.constexpr, WIDE: tl.constexpr):
    """acc + x h with x [M, K] float32 in that many bfloat16 pieces and h [K, N] of +-1 or 0 in any dtype."""
    rest = x
    for _ in tl.static_range(PIECES):
        piece = rest.to(tl.bfloat16)
        if WIDE:
            acc = tl.dot(piece.to(tl.float32), h.to(tl.float32), acc, input_precision="ieee")
        else:
            acc = tl.dot(piece, h.to(tl.bfloat16), acc)
        rest = rest - piece.to(tl.float32)
    return acc


@triton.jit
def stored(y, DTYPE: tl.constexpr, WIDE: tl.constexpr):
    """float32 y rounded to nearest in the dtype it is stored in."""
    if WIDE and tl.bfloat16 == DTYPE:
        bits = y.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        y = bits.to(tl.float32, bitcast=True)
    return y.to(DTYPE)


@triton.jit
def round_half_even(v):
    """v rounded to the nearest whole number, still float32."""
    near = (v + 12582912.0) - 12582912.0
    return tl.where(tl.abs(v) < 4194304.0, near, tl.floor(v + 0.5))


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def largest(x, WIDE: tl.constexpr):
    """The largest number of each row of x [R, C]; NaN where a row holds one. (The interpreter would reduce by another function than its own one
    number at a time, so there NaN is looked for.)"""
    if WIDE:
        return tl.where(tl.max((x != x).to(tl.int32), axis=1) > 0, float("nan"), tl.max(x, axis=1))
    return tl.reduce(x, 1, _larger)


@triton.jit
def row_scale(
    x, inside, ratio, BITS: tl.constexpr, SYMMETRIC: tl.constexpr, MINIMUM: tl.constexpr, WITH_ZERO: tl.constexpr, WIDE: tl.constexpr,
):
    """Step and code of zero of rows x [R, C] float32, as IntegerGrid.scale of rotviz.numerics.grids; with MINIMUM as MinimumGrid.scale, the
    zero not rounded. x is 0 where `inside` [1, C] is not; WITH_ZERO stretches the range to include 0.

    A row that holds a NaN or an infinity, or whose range overflows, has the step NaN: it comes back as NaN throughout, as from the reference.
    """
    if SYMMETRIC:
        peak = largest(tl.abs(x), WIDE) * ratio
        step = tl.math.div_rn(peak, tl.full(peak.shape, (1 << (BITS - 1)) - 1, tl.float32))
        step = tl.where(step == 0, 1.0, step)
        zero = tl.zeros(peak.shape, dtype=tl.float32)
    else:
        high = largest(x if WITH_ZERO else tl.where(inside, x, float("-inf")), WIDE)
        low = -largest(-x if WITH_ZERO else tl.where(inside, -x, float("-inf")), WIDE)
        if WITH_ZERO:
            high, low = _larger(high, 0.0), -_larger(-low, 0.0)
        low, high = low * ratio, high * ratio
        span = high - low
        alone = tl.where(tl.abs(high) > 0, tl.abs(high), 1.0)
        step = tl.where(span == 0, alone, tl.math.div_rn(span, tl.full(span.shape, (1 << BITS) - 1, tl.float32)))
        zero = tl.math.div_rn(-low, step)
        if not MINIMUM:
            zero = round_half_even(zero)
    return tl.where(step == float("inf"), float("nan"), step), zero


@triton.jit
def divided(x, step):
    """x [R, C] over step [R] > 0, correctly rounded as a division is, with one division a row.

    With r = 1 / step rounded to nearest and q = x r, the remainder x - q step is exact in a fused multiply-add, and q + r (x - q step) is rounded
    as x / step itself would be (Markstein 1990). A power of two keeps tiny and huge steps away from underflow, where that would not hold.
    (The interpreter of Triton 3.6 rounds a fused multiply-add twice, and is off there; that of 3.9 rounds it once, as a GPU does.)
    """
    down: tl.constexpr = 2.0**-64
    power = tl.where(step < down, 1 / down, tl.where(step > 1 / down, down, 1.0))
    step = step * power
    r = tl.broadcast_to(tl.math.div_rn(tl.full(step.shape, 1.0, tl.float32), step)[:, None], x.shape)
    x = x * power[:, None]
    q = x * r
    return tl.math.fma(tl.math.fma(-q, tl.broadcast_to(step[:, None], x.shape), x), r, q)


@triton.jit
def grid_codes(scaled, zero, BITS: tl.constexpr, SYMMETRIC: tl.constexpr, MINIMUM: tl.constexpr, FAR: tl.constexpr):
    """Whole-number codes, int32, of numbers already divided by their step. FAR: a whole zero may lie far from the levels.

    Otherwise numbers are cut to the levels before they are rounded, which gives the same codes as the levels are whole, and 1.5 * 2^23 plus
    such a number is rounded to a whole one whose low bits are the code: neither large numbers nor a conversion need care.
    """
    lowest: tl.constexpr = -(1 << (BITS - 1)) if SYMMETRIC else 0
    highest: tl.constexpr = (1 << (BITS - 1)) - 1 if SYMMETRIC else (1 << BITS) - 1
    if FAR:
        return tl.minimum(tl.maximum(round_half_even(scaled) + zero, lowest), highest).to(tl.int32)
    if MINIMUM:
        near = tl.minimum(tl.maximum(scaled + zero, lowest), highest) + 12582912.0
        return near.to(tl.int32, bitcast=True) - 0x4B400000
    near = tl.minimum(tl.maximum(scaled, lowest - zero), highest - zero) + 12582912.0
    return near.to(tl.int32, bitcast=True) - 0x4B400000 + zero.to(tl.int32)


@triton.jit
def as_float(data, BITS: tl.constexpr, SYMMETRIC: tl.constexpr):
    """Codes as float32, from the int32 that holds their bits (the low BITS, two's complement when SYMMETRIC), without a conversion.

    The bits of a whole number below 2^23, with those of 2^23 above them, are 2^23 plus that number as float32: an OR and an addition, which
    every lane can do in every cycle, where conversions go through a narrower unit.
    """
    SIGN: tl.constexpr = (1 << (BITS - 1)) if SYMMETRIC else 0
    code = (data & ((1 << BITS) - 1)) ^ SIGN
    return (code | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + SIGN)


@triton.jit
def store_codes(out_ptr, codes, rows, row_ok, WIDTH: tl.constexpr, ROWS: tl.constexpr, PADDED: tl.constexpr, PACKED: tl.constexpr):
    """Write codes [ROWS, PADDED] of rows of WIDTH numbers: a byte each, or two in a byte, the earlier in the low half."""
    if PACKED:
        first, second = tl.split(tl.reshape(codes, (ROWS, PADDED // 2, 2)))
        column = tl.arange(0, PADDED // 2)
        data = (first & 15) | ((second & 15) << 4)
        ok = row_ok[:, None] & (column < WIDTH // 2)[None, :]
        tl.store(out_ptr + rows[:, None] * (WIDTH // 2) + column[None, :], data.to(tl.uint8), mask=ok)
    else:
        column = tl.arange(0, PADDED)
        ok = row_ok[:, None] & (column < WIDTH)[None, :]
        tl.store(out_ptr + rows[:, None] * WIDTH + column[None, :], codes.to(out_ptr.dtype.element_ty), mask=ok)
