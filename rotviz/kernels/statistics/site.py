"""What one look at a site leaves behind, and how two looks become one.

Magnitudes are counted in 1,024 bins: 64 octaves from 2^-32, each cut into 16 even parts,

    edge i = 2^(i div 16 - 32) (1 + (i mod 16) / 16)

which are the exponent and the first four bits of the mantissa of a float32 number: a bin is found by a shift, without a logarithm, and exactly.
Bin 0 also holds what is smaller (zero too), the last bin what is larger. A quantile read off the bins is off by one bin at most: 6 percent.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.numerics.statistics import Moments, TopChannel

BINS = 1024
LOWEST = -32
PER_OCTAVE = 16
SHIFT = 19
"""Bits of a float32 number below the four first of its mantissa."""
FIRST = (127 + LOWEST) * PER_OCTAVE
"""The bits of 2^LOWEST after the shift."""


@dataclass(frozen=True, slots=True)
class SiteStatistics:
    """Statistics of the tokens seen.

    moments: count, mean and powers up to the fourth. counts: int64 [BINS] on the CPU, see the top of the file. peaks: max|x| of every channel,
    float32 [D]; peak_tokens: the first token where it stands, int64 [D].
    """

    tokens: int
    moments: Moments
    counts: Tensor
    peaks: Tensor
    peak_tokens: Tensor

    @property
    def absmax(self) -> float:
        """The largest magnitude."""
        return float(self.peaks.max())

    def top_channels(self, k: int) -> list[TopChannel]:
        """The k channels with the largest |x|, largest first."""
        values, channels = self.peaks.topk(min(k, self.peaks.numel()))
        tokens = self.peak_tokens[channels]
        return [TopChannel(c, v, t) for c, v, t in zip(channels.tolist(), values.tolist(), tokens.tolist(), strict=True)]

    def quantile(self, q: float) -> float:
        """Quantile q of |x|: the middle of the bin it falls in.

        Raises:
            BadInput: q is not between 0 and 1.
        """
        if not 0 <= q <= 1:
            raise BadInput(f"a quantile lies between 0 and 1, not at {q}")
        reached = self.counts.cumsum(0)
        place = int(torch.searchsorted(reached, torch.tensor(q * (self.moments.count - 1)), right=True))
        if place == 0:
            return 0.0
        ends = edges()[place : place + 2]
        return min(float(ends[0] if place == BINS - 1 else ends.mean()), self.absmax)

    def __add__(self, later: "SiteStatistics") -> "SiteStatistics":
        """Both looks together; the tokens of `later` come after those of this one."""
        if self.peaks.shape != later.peaks.shape:
            raise BadInput(f"statistics of {self.peaks.numel()} and of {later.peaks.numel()} channels do not add up")
        higher = later.peaks > self.peaks
        return SiteStatistics(
            self.tokens + later.tokens, self.moments + later.moments, self.counts + later.counts,
            torch.where(higher, later.peaks, self.peaks), torch.where(higher, later.peak_tokens + self.tokens, self.peak_tokens))


def edges() -> Tensor:
    """The edges between bins, float64 [BINS + 1]; the first is 0, the last infinite."""
    i = torch.arange(BINS + 1, dtype=torch.float64)
    found = torch.exp2(i.div(PER_OCTAVE, rounding_mode="floor") + LOWEST) * (1 + i.remainder(PER_OCTAVE) / PER_OCTAVE)
    found[0], found[-1] = 0.0, torch.inf
    return found


def bins_of(x: Tensor) -> Tensor:
    """The bin of every number of x, int64 in x's shape."""
    bits = x.float().abs().contiguous().view(torch.int32)
    return ((bits >> SHIFT) - FIRST).clamp_(0, BINS - 1).long()
