"""Is a learned rotation better than luck? A number against the spread of random seeds.

Random rotations differ from draw to draw. With the results x_1 ... x_n of n seeds of the unlearned method, mean m and standard deviation s, one more
draw of the same kind falls, with 95 % probability and if the results are about normal, into the prediction interval

    m +- t(n - 1, 0.975) s sqrt(1 + 1/n)          t: quantile of Student's distribution with n - 1 degrees of freedom

(the 1/n because the mean itself is uncertain; a confidence interval of the mean, without the 1, would call every second lucky draw a
gain). A learned rotation whose result lies inside could have been one of the seeds: no difference. Below it helps, above it hurts; all
results here are errors or perplexities, of which less is better.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95
HELPS, SAME, HURTS, UNKNOWN = "helps", "no difference", "hurts", "cannot be told"


@dataclass(frozen=True)
class Verdict:
    """What a result is worth against a spread of seeds.

    Attributes:
        kind: one of HELPS, SAME, HURTS, UNKNOWN.
        value: the result.
        mean, low, high: of the seeds, and the interval in which one more seed would fall.
        seeds: how many there were.
    """

    kind: str
    value: float
    mean: float
    low: float
    high: float
    seeds: int

    @property
    def difference(self) -> float:
        """From the seeds' mean; negative = less, so better."""
        return self.value - self.mean


def judge(value: float, seeds: Sequence[float], level: float = LEVEL) -> Verdict:
    """The verdict on one result. Seeds without a finite result do not count; with fewer than two nothing can be told."""
    known = [float(x) for x in seeds if math.isfinite(x)]
    low, high = prediction_interval(known, level)
    mean = fmean(known) if known else math.nan
    if math.isnan(value) or not math.isfinite(low):
        return Verdict(UNKNOWN, value, mean, low, high, len(known))
    kind = HELPS if value < low else HURTS if value > high else SAME
    return Verdict(kind, value, mean, low, high, len(known))


def prediction_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Where one more value of the same kind falls with the probability `level`; NaN with fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    reach = t_quantile((1 + level) / 2, n - 1) * stdev(values) * math.sqrt(1 + 1 / n)
    return fmean(values) - reach, fmean(values) + reach


def t_quantile(probability: float, freedom: int) -> float:
    """The number below which Student's t lies with a probability in [0.5, 1), by bisection on `t_probability`."""
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < probability else (low, middle)
    return high


def t_probability(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0 and whole degrees of freedom, as a finite sum (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for i in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine * cosine * (i - 1) / i
        total += term
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 + inside / 2
