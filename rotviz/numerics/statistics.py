"""Statistics of activations: how large, how heavy-tailed, and where. Every figure about outliers starts here.

For a tensor X of T tokens and D channels:

    excess kurtosis   E[(x - mean)^4] / std^4 - 3                 Gaussian 0, uniform -1.2, Laplace 3
    crest factor      max|x| / rms
    incoherence mu    max|X| sqrt(T D) / |X|_F                     QuIP's; 1 when all entries have one size (the same number as the crest
                                                                   factor of the whole tensor, kept under the name that the papers use)
    peak ratio        mean over tokens of max|x| sqrt(D) / |x|_2   sqrt(D) for a spike, about 3.8 for a Gaussian of 4096 channels, 1 at best

SpinQuant plots raw kurtosis (Gaussian 3); here it is always the excess. Standard deviations divide by N.

Moments are taken chunk by chunk in float64 and merged as in Pebay (SAND2008-6212), which loses nothing but rounding. `summarize` has exact
quantiles, from sorting (torch.quantile refuses more than 16 million numbers); `RunningSummary` sees the numbers once and has them from a
histogram of log2|x| with 16 bins an octave.

Quantiles interpolate linearly between order statistics, as numpy's default does.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from rotviz.errors import BadInput

A = TypeVar("A", Tensor, np.ndarray)
CHUNK = 1 << 18
"""Numbers that are held in float64 at a time: 2 MB, which stay in a CPU's cache through the passes over them."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What one tensor looks like in a few numbers; see the top of the file for the formulas. median, p99 and p999 are of |x|."""

    absmax: float
    median_abs: float
    mean: float
    std: float
    kurtosis: float
    p99: float
    p999: float
    crest: float
    incoherence: float
    peak_ratio: float


class TopChannel(NamedTuple):
    """A channel, its largest |x|, and the token where it stands."""

    channel: int
    absmax: float
    token: int


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and sums of powers of (x - mean): m2, m3, m4. A sum of two is the moments of both samples together."""

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    m3: float = 0.0
    m4: float = 0.0

    def __add__(self, other: "Moments") -> "Moments":
        if not self.count or not other.count:
            return self if self.count else other
        a, b, n = self.count, other.count, self.count + other.count
        d = other.mean - self.mean
        m2 = self.m2 + other.m2 + d**2 * a * b / n
        m3 = self.m3 + other.m3 + d**3 * a * b * (a - b) / n**2 + 3 * d * (a * other.m2 - b * self.m2) / n
        m4 = (self.m4 + other.m4 + d**4 * a * b * (a * a - a * b + b * b) / n**3
              + 6 * d**2 * (a * a * other.m2 + b * b * self.m2) / n**2 + 4 * d * (a * other.m3 - b * self.m3) / n)
        return Moments(n, self.mean + d * b / n, m2, m3, m4)

    @property
    def std(self) -> float:
        """Standard deviation, dividing by the count."""
        return math.sqrt(self.m2 / self.count)

    @property
    def rms(self) -> float:
        """Root of the mean square."""
        return math.sqrt(self.m2 / self.count + self.mean**2)

    @property
    def kurtosis(self) -> float:
        """Excess kurtosis; 0 for a constant, which has none."""
        return self.count * self.m4 / self.m2**2 - 3 if self.m2 > 0 and self.m2**2 > 0 else 0.0


def summarize(x: Tensor) -> Summary:
    """The summary of a site. x [..., D] of any float dtype.

    Raises:
        BadInput: x is empty, or holds NaN or infinity.
    """
    x = _as_tokens(x)
    moments, peaks = Moments(), 0.0
    for chunk in _chunks(x):
        moments += _moments(chunk)
        peaks += float(_peak_ratios(chunk).sum())
    ordered = _sorted(x.abs().flatten())
    quantiles = tuple(_interpolated(ordered, q).item() for q in (0.5, 0.99, 0.999))
    return _summary(float(ordered[-1]), moments, peaks / x.shape[0], quantiles)


def excess_kurtosis(x: Tensor) -> float:
    """The excess kurtosis of all numbers of x [..., D] alone, without the sorting that a summary takes.

    Raises:
        BadInput: x is empty, or holds NaN or infinity.
    """
    moments = Moments()
    for chunk in _chunks(_as_tokens(x)):
        moments += _moments(chunk)
    return moments.kurtosis


def channel_rms(x: Tensor) -> Tensor:
    """Root of the mean square of every channel over the tokens. x [T, D] -> float64 [D]."""
    return _as_tokens(x).double().square().mean(0).sqrt()


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two arrays [N], ties at their mean rank; NaN below three pairs or where one is constant."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(_ranks(np.asarray(a)), _ranks(np.asarray(b)))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[which]


def channel_quantiles(x: Tensor, qs: Sequence[float]) -> Tensor:
    """Quantiles of every channel over the tokens. x [T, D] -> float64 [len(qs), D]."""
    x = _as_tokens(x)
    ordered = _sorted(x.T.contiguous())  # channels as rows: sorting neighbours in memory is several times faster
    return torch.stack([_interpolated(ordered, q) for q in qs])


def channel_absmax(x: Tensor) -> Tensor:
    """max|x| of every channel. [T, D] -> [D]."""
    return _as_tokens(x).abs().amax(dim=0)


def token_absmax(x: Tensor) -> Tensor:
    """max|x| of every token. [T, D] -> [T]."""
    return _as_tokens(x).abs().amax(dim=1)


def top_channels(x: Tensor, k: int) -> list[TopChannel]:
    """The k channels with the largest |x|, largest first. x [T, D]."""
    peaks, tokens = _as_tokens(x).abs().max(dim=0)
    values, channels = peaks.topk(min(k, peaks.numel()))
    return [TopChannel(c, v, t) for c, v, t in zip(channels.tolist(), values.tolist(), tokens[channels].tolist(), strict=True)]


def histogram(x: Tensor, bins: int = 200, symmetric_log: bool = False) -> tuple[Tensor, Tensor]:
    """How many numbers fall between edges: [edge, next edge), the last bin with its right edge.

    Args:
        x: any shape.
        bins: number of bins.
        symmetric_log: edges at m sinh(u) for even u, symmetric about zero, m the median of |x|: even bins near zero, logarithmic ones
            in the tails, so that bulk and outliers fit in one picture. Otherwise even bins from the smallest to the largest number.

    Returns:
        counts int64 [bins], edges float64 [bins + 1].
    """
    x = _as_tokens(x).flatten()
    edges = (_symmetric_log_edges(x, bins) if symmetric_log else _even_edges(x, bins)).to(x.device)
    counts = torch.zeros(bins, dtype=torch.int64, device=x.device)
    for chunk in x.split(CHUNK):
        index = torch.bucketize(chunk.to(torch.float64), edges, right=True) - 1
        counts += torch.bincount(index.clamp_(0, bins - 1), minlength=bins)
    return counts.cpu(), edges.cpu()


def normal_quantiles(x: Tensor, n: int = 200) -> tuple[Tensor, Tensor]:
    """The two axes of a Q-Q plot against the normal distribution, at the probabilities (i + 1/2) / n.

    Returns:
        theoretical, observed: float64 [n]; the observed quantiles are of (x - mean) / std, so that a Gaussian lies on the diagonal.
    """
    x = _as_tokens(x)
    moments = sum((_moments(chunk) for chunk in _chunks(x)), Moments())
    p = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    ordered = _sorted(x.flatten())
    observed = torch.stack([_interpolated(ordered, q) for q in p.tolist()]).cpu()
    return torch.special.ndtri(p), (observed - moments.mean) / (moments.std or 1.0)


def max_pool(x: A, rows: int, cols: int) -> A:
    """max|x| over windows, at most rows x cols of them, so that a single spike survives the shrinking.

    All windows have one shape, `pool_window` of the two axes; those at the end may reach over the edge and hold fewer numbers.

    Args:
        x: [T, D], a tensor or a numpy array; what comes back is of the same kind and dtype.
    """
    if isinstance(x, np.ndarray):
        return max_pool(torch.from_numpy(np.ascontiguousarray(x)), rows, cols).numpy()
    high, wide = pool_window(x.shape[0], rows), pool_window(x.shape[1], cols)
    down, across = -(-x.shape[0] // high), -(-x.shape[1] // wide)
    padded = torch.nn.functional.pad(x.abs(), (0, across * wide - x.shape[1], 0, down * high - x.shape[0]))
    return padded.reshape(down, high, across, wide).amax(dim=(1, 3))


def pool_window(size: int, limit: int) -> int:
    """How many neighbours `max_pool` puts into one window so that at most `limit` windows cover an axis of `size`."""
    return max(1, -(-size // limit))


class RunningSummary:
    """The summary of more numbers than fit in memory, one chunk after the other.

        running = RunningSummary()
        for window in windows:
            running.update(window)      # [..., D]
        running.summary()

    Quantiles of |x| are approximate (interpolated in a bin of a 16th of an octave: off by 4.4 percent at the very worst), the rest is exact
    to rounding. Numbers below 2^-40 count as zero for quantiles.
    """

    LOWEST, HIGHEST, PER_OCTAVE = -40, 40, 16

    def __init__(self) -> None:
        self.absmax = 0.0
        self.moments = Moments()
        self.tokens = 0
        self._peak_sum = 0.0
        self._bins = torch.zeros((self.HIGHEST - self.LOWEST) * self.PER_OCTAVE + 1, dtype=torch.int64)

    def update(self, x: Tensor) -> None:
        """Take in [..., D]. An empty chunk changes nothing.

        Raises:
            BadInput: x holds NaN or infinity; nothing of it has been taken in.
        """
        if not x.numel():
            return
        x = _as_tokens(x)
        for chunk in _chunks(x):
            self.moments += _moments(chunk)
            self._peak_sum += float(_peak_ratios(chunk).sum())
            self._bins += self._counts(chunk)
        self.absmax = max(self.absmax, float(x.abs().max()))
        self.tokens += x.shape[0]

    def quantile(self, q: float) -> float:
        """Approximate quantile of |x|."""
        if not self.tokens:
            raise BadInput("a summary of no numbers has no quantiles")
        reached = self._bins.cumsum(0).double()
        rank = q * (self.moments.count - 1) + 0.5
        index = int(torch.searchsorted(reached, torch.tensor(rank, dtype=torch.float64)))
        if index == 0:
            return 0.0
        within = (rank - float(reached[index - 1])) / float(self._bins[index])
        return min(2.0 ** (self.LOWEST + (index - 1 + within) / self.PER_OCTAVE), self.absmax)

    def summary(self) -> Summary:
        """What has been seen so far.

        Raises:
            BadInput: nothing has been.
        """
        quantiles = (self.quantile(0.5), self.quantile(0.99), self.quantile(0.999))
        return _summary(self.absmax, self.moments, self._peak_sum / self.tokens, quantiles)

    def _counts(self, chunk: Tensor) -> Tensor:
        """Bin 0 is for |x| < 2^LOWEST, bin i for one 16th of an octave; larger numbers than 2^HIGHEST are put in the last."""
        exponent = chunk.abs().log2().flatten()  # log2(0) = -inf lands in bin 0
        last = self._bins.numel() - 1
        index = ((exponent - self.LOWEST) * self.PER_OCTAVE).floor().clamp_(-1, last - 1).long() + 1
        return torch.bincount(index, minlength=last + 1).cpu()


def _summary(absmax: float, moments: Moments, peak_ratio: float, quantiles: tuple[float, float, float]) -> Summary:
    crest = absmax / moments.rms if moments.rms else 0.0
    median, p99, p999 = quantiles
    return Summary(absmax=absmax, median_abs=median, mean=moments.mean, std=moments.std, kurtosis=moments.kurtosis, p99=p99, p999=p999,
                   crest=crest, incoherence=crest, peak_ratio=peak_ratio)


def _as_tokens(x: Tensor) -> Tensor:
    """[..., D] as [T, D], refusing what has no statistics."""
    if not x.numel() or not x.is_floating_point():
        raise BadInput(f"statistics need floating-point numbers, not a tensor of shape {tuple(x.shape)} and {x.dtype}")
    x = x.detach()
    if not bool(torch.isfinite(x.abs().max())):  # max hands NaN on
        raise BadInput("the tensor holds NaN or infinity, so its statistics mean nothing; look for the first site where this happens")
    return x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)


def _chunks(x: Tensor) -> Iterator[Tensor]:
    """Rows of [T, D] in float64, about CHUNK numbers at a time."""
    return (rows.to(torch.float64) for rows in x.split(max(1, CHUNK // x.shape[1])))


def _moments(x: Tensor) -> Moments:
    """Of a float64 tensor that fits in memory."""
    mean = x.mean()
    centered = x - mean
    square = centered * centered
    return Moments(x.numel(), float(mean), float(square.sum()), float((square * centered).sum()), float((square * square).sum()))


def _peak_ratios(x: Tensor) -> Tensor:
    """max|x| sqrt(D) / |x|_2 of every token; 0 for a token of zeros. [T, D] -> [T]."""
    norm = torch.linalg.vector_norm(x, dim=1)
    return torch.where(norm > 0, x.abs().amax(dim=1) * math.sqrt(x.shape[1]) / norm.clamp_min(torch.finfo(x.dtype).tiny), 0.0)


def _sorted(x: Tensor) -> Tensor:
    """x in ascending order along the last axis, in float32 or wider. numpy's vectorized sort beats torch's on the CPU by far."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.from_numpy(np.sort(x.numpy())) if x.device.type == "cpu" else x.sort().values


def _interpolated(ordered: Tensor, q: float) -> Tensor:
    """Quantile q of sorted numbers. [..., N] -> float64 [...]."""
    if not 0 <= q <= 1:
        raise BadInput(f"a quantile lies between 0 and 1, not at {q}")
    position = q * (ordered.shape[-1] - 1)
    low = math.floor(position)
    below, above = ordered[..., low].double(), ordered[..., min(low + 1, ordered.shape[-1] - 1)].double()
    return below + (position - low) * (above - below)


def _even_edges(x: Tensor, bins: int) -> Tensor:
    low, high = float(x.min()), float(x.max())
    if low == high:  # one value: a bin of some width around it
        low, high = low - 0.5, high + 0.5
    return torch.linspace(low, high, bins + 1, dtype=torch.float64)


def _symmetric_log_edges(x: Tensor, bins: int) -> Tensor:
    largest = float(x.abs().max()) or 1.0
    unit = _interpolated(_sorted(x.abs()), 0.5).item() or largest
    reach = math.asinh(largest / unit)
    edges = unit * torch.linspace(-reach, reach, bins + 1, dtype=torch.float64).sinh()
    edges[0], edges[-1] = -largest, largest  # sinh(asinh(x)) rounds
    return edges
