"""Statistics of a site in Triton: every number is read once. README.md has the maths.

A tile of 32 tokens and 128 channels is taken apart on chip: its mean, then sums of powers of z = (x - mean) / peak up to the fourth. |z| <= 1, so no
power overflows, whatever the outliers, and the tile's few sums keep float32's precision; they are merged in float64 afterwards. The tile's
mean is itself rounded, which the first power sum mends: it would be zero for the exact mean.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rotviz.device import multiprocessors, on_device_of
from rotviz.kernels.statistics.site import BINS, FIRST, SHIFT, SiteStatistics
from rotviz.numerics.statistics import Moments

BLOCK_T, BLOCK_D = 32, 128
COUNT, MEAN, PEAK, POWERS, STRANGE, SUMS = 0, 1, 2, 3, 7, 8
"""Where a tile's sums stand: count, mean, peak, sums of z to z^4, how many numbers are NaN or infinite; and how many sums there are."""


@triton.jit
def statistics_kernel(
    x_ptr, sums_ptr, counts_ptr, peaks_ptr, tokens_ptr, count, width, tiles,
    SHARE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, BINS: tl.constexpr,
    FIRST: tl.constexpr, SHIFT: tl.constexpr, SUMS: tl.constexpr,
):
    """A strip of BLOCK_D channels over SHARE tiles of tokens.

    sums [tiles, strips, SUMS], counts int32 [splits, strips, BINS], peaks and tokens [splits, width].
    """
    strip, split = tl.program_id(0), tl.program_id(1)
    strips = tl.num_programs(0)
    d = strip * BLOCK_D + tl.arange(0, BLOCK_D)
    counts = tl.zeros((BINS,), dtype=tl.int32)
    peaks = tl.full((BLOCK_D,), -1.0, dtype=tl.float32)
    tokens = tl.zeros((BLOCK_D,), dtype=tl.int32)
    for i in range(SHARE):
        tile = split * SHARE + i
        t = tile * BLOCK_T + tl.arange(0, BLOCK_T)
        ok = (t < count)[:, None] & (d < width)[None, :]
        x = tl.load(x_ptr + t.to(tl.int64)[:, None] * width + d[None, :], mask=ok, other=0.0).to(tl.float32)
        size = tl.abs(x)

        bits = size.to(tl.int32, bitcast=True)
        bins = tl.minimum(tl.maximum((bits >> SHIFT) - FIRST, 0), BINS - 1)
        counts += tl.histogram(tl.reshape(bins, (BLOCK_T * BLOCK_D,)), BINS)

        here = tl.max(size, axis=0)
        first = tl.argmax(size, axis=0)
        tokens = tl.where(here > peaks, tile * BLOCK_T + first, tokens)
        peaks = tl.maximum(here, peaks)

        number = tl.sum(tl.sum(ok.to(tl.float32), axis=1), axis=0)
        mean = tl.sum(tl.sum(x, axis=1), axis=0) / tl.maximum(number, 1.0)
        z = tl.where(ok, x - mean, 0.0)
        peak = tl.max(tl.max(tl.abs(z), axis=1), axis=0)
        z = z / tl.where(peak > 0, peak, 1.0)
        square = z * z
        strange = ok & (bits >= 0x7F800000)
        inside = tile < tiles
        out = sums_ptr + (tile * strips + strip) * SUMS
        tl.store(out, number, mask=inside)
        tl.store(out + 1, mean, mask=inside)
        tl.store(out + 2, peak, mask=inside)
        tl.store(out + 3, tl.sum(tl.sum(z, axis=1), axis=0), mask=inside)
        tl.store(out + 4, tl.sum(tl.sum(square, axis=1), axis=0), mask=inside)
        tl.store(out + 5, tl.sum(tl.sum(square * z, axis=1), axis=0), mask=inside)
        tl.store(out + 6, tl.sum(tl.sum(square * square, axis=1), axis=0), mask=inside)
        tl.store(out + 7, tl.sum(tl.sum(strange.to(tl.float32), axis=1), axis=0), mask=inside)
    tl.store(counts_ptr + (split * strips + strip).to(tl.int64) * BINS + tl.arange(0, BINS), counts)
    tl.store(peaks_ptr + split.to(tl.int64) * width + d, peaks, mask=d < width)
    tl.store(tokens_ptr + split.to(tl.int64) * width + d, tokens, mask=d < width)


def launch(x: Tensor, splits: int | None = None) -> SiteStatistics | None:
    """The statistics of x [T, D] (contiguous), or None if it holds NaN or infinity. splits: shares of T; None = as the GPU needs."""
    count, width = x.shape
    strips, tiles = triton.cdiv(width, BLOCK_D), triton.cdiv(count, BLOCK_T)
    wanted = splits or max(1, min(tiles, 8 * multiprocessors(x.device) // strips))
    share = triton.next_power_of_2(triton.cdiv(tiles, wanted))  # a constant of the kernel: few of them
    splits = triton.cdiv(tiles, share)
    sums = torch.empty(tiles * strips, SUMS, dtype=torch.float32, device=x.device)
    counts = torch.empty(splits * strips, BINS, dtype=torch.int32, device=x.device)
    peaks = torch.empty(splits, width, dtype=torch.float32, device=x.device)
    tokens = torch.empty(splits, width, dtype=torch.int32, device=x.device)
    with on_device_of(x):
        statistics_kernel[(strips, splits)](x, sums, counts, peaks, tokens, count, width, tiles, SHARE=share, BLOCK_T=BLOCK_T,
                                            BLOCK_D=BLOCK_D, BINS=BINS, FIRST=FIRST, SHIFT=SHIFT, SUMS=SUMS)
    if bool(sums[:, STRANGE].any()):
        return None
    highest, split = peaks.max(dim=0)
    total = counts.sum(0, dtype=torch.int64).cpu()
    total[0] -= splits * share * strips * BLOCK_T * BLOCK_D - count * width  # the tiles' padding was counted as zeros
    first = tokens.gather(0, split[None])[0].long()
    return SiteStatistics(count, merged(sums.double()), total, highest.cpu(), first.cpu())


def merged(sums: Tensor) -> Moments:
    """The moments of all tiles together from their sums, float64 [tiles, SUMS]."""
    n, peak = sums[:, COUNT], sums[:, PEAK]
    first, m2, m3, m4 = (sums[:, POWERS + i] * peak ** (i + 1) for i in range(4))
    # from powers about the tile's rounded mean to powers about its exact one
    d = first / n
    m2, m3, m4 = m2 - n * d**2, m3 - 3 * d * m2 + 2 * n * d**3, m4 - 4 * d * m3 + 6 * d**2 * m2 - 3 * n * d**4
    tile_mean = sums[:, MEAN] + d
    mean = (n * tile_mean).sum() / n.sum()
    # and about the mean of all
    d = tile_mean - mean
    whole = (n.sum(), mean, (m2 + n * d**2).sum(), (m3 + 3 * d * m2 + n * d**3).sum(), (m4 + 4 * d * m3 + 6 * d**2 * m2 + n * d**4).sum())
    number, *others = torch.stack(whole).tolist()
    return Moments(round(number), *others)
