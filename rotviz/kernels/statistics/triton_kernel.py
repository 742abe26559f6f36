"""Statistics of a site in Triton: every number is read once. README.md has the maths.

A program looks at a strip of channels over a share of the tokens. Mean m and scale r (a power of two, about 1 / max|x|) of its first tile serve
for the share: powers of z = r (x - m) are summed up to the fourth, by thread, in float32, and merged in float64 afterwards. What m is off the
share's mean, the first power's sum mends; where r does not suit what comes after the first tile, the reference is asked.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rotviz.device import multiprocessors, on_device_of
from rotviz.kernels.statistics import reference
from rotviz.kernels.statistics.site import BINS, FIRST, SHIFT, SiteStatistics
from rotviz.numerics.statistics import Moments

DEEP, LANES, BLOCK_D = 4, 8, 128
"""A tile is DEEP x LANES tokens of BLOCK_D channels; a thread has all DEEP tokens of its lanes and channels: their sums need no exchange."""
LARGEST_SHARE = 32
"""Tiles a program looks at: sums of DEEP times as many numbers keep float32's precision, and a token's place among them fits seven bits."""
COUNT, MEAN, SCALE, POWERS, STRANGE, UNFIT, SUMS = 0, 1, 2, 3, 7, 8, 9
"""Where a share's sums stand: count, m, 1 / r, sums of z to z^4, lanes with NaN or infinity, whether r is unfit; and how many sums there are."""


@triton.jit
def statistics_kernel(
    x_ptr, sums_ptr, counts_ptr, peaks_ptr, tokens_ptr, count, width,
    SHARE: tl.constexpr, DEEP: tl.constexpr, LANES: tl.constexpr, BLOCK_D: tl.constexpr, BINS: tl.constexpr,
    FIRST: tl.constexpr, SHIFT: tl.constexpr, SUMS: tl.constexpr,
):
    """A strip of BLOCK_D channels over SHARE tiles.

    sums [splits, strips, SUMS], counts int32 [splits, strips, BINS], peaks and tokens [splits, width].
    """
    strip, split = tl.program_id(0), tl.program_id(1)
    strips = tl.num_programs(0)
    d = strip * BLOCK_D + tl.arange(0, BLOCK_D)
    deep = tl.arange(0, DEEP)
    lane = tl.arange(0, LANES)
    row = deep[:, None] * LANES + lane[None, :]
    start = split * SHARE * DEEP * LANES
    NARROW: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16

    x, ok = _tile(x_ptr, start + row, d, count, width)
    exponent = tl.max(tl.max(tl.max(_size(x), axis=0), axis=0), axis=0) >> 23
    r = (tl.where(exponent == 0, 127, tl.maximum(254 - exponent, 1)) << 23).to(tl.float32, bitcast=True)
    here = tl.sum(tl.sum(tl.sum(ok.to(tl.float32), axis=0), axis=0), axis=0)
    shift = tl.sum(tl.sum(tl.sum(x * r, axis=0), axis=0), axis=0) / here

    counts = tl.zeros((BINS,), dtype=tl.int32)
    peaks = tl.full((LANES, BLOCK_D), -1, dtype=tl.int32)
    places = tl.zeros((LANES, BLOCK_D), dtype=tl.int32)
    z1 = tl.zeros((LANES, BLOCK_D), dtype=tl.float32)
    z2, z3, z4 = z1, z1, z1
    for i in range(SHARE):
        x, ok = _tile(x_ptr, start + i * DEEP * LANES + row, d, count, width)
        size = _size(x)
        bins = tl.minimum(tl.maximum((size >> SHIFT) - FIRST, 0), BINS - 1)
        counts += tl.histogram(tl.reshape(bins, (DEEP * LANES * BLOCK_D,)), BINS)
        if NARROW:  # the low bits are free: they say how early a number comes, so that of equal ones the first is the largest
            peaks = tl.maximum(peaks, tl.max(size | (SHARE * DEEP - 1 - i * DEEP - deep)[:, None, None], axis=0))
        else:
            highest, first = tl.max(size, axis=0, return_indices=True)
            places = tl.where(highest > peaks, i * DEEP + first, places)
            peaks = tl.maximum(peaks, highest)
        z = tl.where(ok, tl.math.fma(x, tl.broadcast_to(r, x.shape), tl.broadcast_to(-shift, x.shape)), 0.0)
        square = z * z
        z1 += tl.sum(z, axis=0)
        z2 += tl.sum(square, axis=0)
        z3 += tl.sum(square * z, axis=0)
        z4 += tl.sum(square * square, axis=0)

    if NARROW:
        places = SHARE * DEEP - 1 - (peaks & (SHARE * DEEP - 1))
        peaks = peaks & ~(SHARE * DEEP - 1)
    highest = tl.max(peaks, axis=0)
    tokens = tl.min(tl.where(peaks == highest[None, :], start + places * LANES + lane[:, None], 0x7FFFFFFF), axis=0)
    top = tl.max(highest, axis=0).to(tl.float32, bitcast=True) * r
    out = sums_ptr + (split * strips + strip) * SUMS
    rows = tl.minimum(count - start, SHARE * DEEP * LANES)
    tl.store(out, (rows * tl.minimum(width - strip * BLOCK_D, BLOCK_D)).to(tl.float32))
    tl.store(out + 1, shift / r)
    tl.store(out + 2, 1 / r)
    tl.store(out + 3, tl.sum(tl.sum(z1, axis=0), axis=0))
    tl.store(out + 4, tl.sum(tl.sum(z2, axis=0), axis=0))
    tl.store(out + 5, tl.sum(tl.sum(z3, axis=0), axis=0))
    tl.store(out + 6, tl.sum(tl.sum(z4, axis=0), axis=0))
    tl.store(out + 7, tl.sum((highest >= 0x7F800000).to(tl.float32), axis=0))
    tl.store(out + 8, ((top > 2.0**26) | ((top < 2.0**-20) & (top > 0))).to(tl.float32))
    tl.store(counts_ptr + (split * strips + strip).to(tl.int64) * BINS + tl.arange(0, BINS), counts)
    tl.store(peaks_ptr + split.to(tl.int64) * width + d, highest.to(tl.float32, bitcast=True), mask=d < width)
    tl.store(tokens_ptr + split.to(tl.int64) * width + d, tokens, mask=d < width)


@triton.jit
def _tile(x_ptr, t, d, count, width):
    """x [DEEP, LANES, BLOCK_D] in float32 at tokens t [DEEP, LANES] and channels d, zero where there is none; and where there is one."""
    ok = (t < count)[:, :, None] & (d < width)[None, None, :]
    return tl.load(x_ptr + t.to(tl.int64)[:, :, None] * width + d[None, None, :], mask=ok, other=0.0).to(tl.float32), ok


@triton.jit
def _size(x):
    """The bits of |x|, which are ordered as |x| is; NaN and infinity are 0x7F800000 and above."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


def launch(x: Tensor, splits: int | None = None) -> SiteStatistics | None:
    """The statistics of x [T, D] (contiguous), or None if it holds NaN or infinity. splits: shares of T, at least; None = as the GPU needs."""
    count, width = x.shape
    strips, tiles = triton.cdiv(width, BLOCK_D), triton.cdiv(count, DEEP * LANES)
    wanted = splits or max(1, min(tiles, 8 * multiprocessors(x.device) // strips))
    share = min(LARGEST_SHARE, triton.next_power_of_2(triton.cdiv(tiles, wanted)))  # a constant of the kernel: few of them
    splits = triton.cdiv(tiles, share)
    sums = torch.empty(splits * strips, SUMS, dtype=torch.float32, device=x.device)
    counts = torch.empty(splits * strips, BINS, dtype=torch.int32, device=x.device)
    peaks = torch.empty(splits, width, dtype=torch.float32, device=x.device)
    tokens = torch.empty(splits, width, dtype=torch.int32, device=x.device)
    with on_device_of(x):
        statistics_kernel[(strips, splits)](x, sums, counts, peaks, tokens, count, width, SHARE=share, DEEP=DEEP, LANES=LANES,
                                            BLOCK_D=BLOCK_D, BINS=BINS, FIRST=FIRST, SHIFT=SHIFT, SUMS=SUMS)
    strange, unfit = (sums[:, STRANGE : UNFIT + 1] != 0).any(dim=0).tolist()
    if strange:
        return None
    if unfit:
        return reference.site_statistics(x)
    highest, split = peaks.max(dim=0)
    total = counts.sum(0, dtype=torch.int64).cpu()
    total[0] -= splits * share * strips * DEEP * LANES * BLOCK_D - count * width  # the tiles' padding was counted as zeros
    first = tokens.gather(0, split[None])[0].long()
    return SiteStatistics(count, merged(sums.double()), total, highest.cpu(), first.cpu())


def merged(sums: Tensor) -> Moments:
    """The moments of all shares together from their sums, float64 [shares, SUMS]."""
    n, scale = sums[:, COUNT], sums[:, SCALE]
    first, m2, m3, m4 = (sums[:, POWERS + i] * scale ** (i + 1) for i in range(4))
    # from powers about the first tile's mean to powers about the share's own
    d = first / n
    m2, m3, m4 = m2 - n * d**2, m3 - 3 * d * m2 + 2 * n * d**3, m4 - 4 * d * m3 + 6 * d**2 * m2 - 3 * n * d**4
    share_mean = sums[:, MEAN] + d
    mean = (n * share_mean).sum() / n.sum()
    # and about the mean of all
    d = share_mean - mean
    whole = (n.sum(), mean, (m2 + n * d**2).sum(), (m3 + 3 * d * m2 + n * d**3).sum(), (m4 + 4 * d * m3 + 6 * d**2 * m2 + n * d**4).sum())
    number, *others = torch.stack(whole).tolist()
    return Moments(round(number), *others)
