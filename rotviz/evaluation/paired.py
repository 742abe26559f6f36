"""Does a rotation help here? A paired verdict at every block and site, with an interval and a reason.

Two rotation choices A and B (often none and Hadamard) round the same tokens. With e_t the share of token t's energy that rounding loses,

    r_t = log( e_t(B) / e_t(A) ),        mean of r_t over the ORDINARY tokens,        interval by bootstrap

    helps           the whole interval lies below  -MARGIN    (B loses at least 1 % less)
    hurts           the whole interval lies above  +MARGIN
    no difference   anything else

Why so. Relative errors of tokens differ by orders of magnitude and a ratio of sums would be the verdict on one massive token, which holds most of
the energy; a log ratio counts every token once, and the mean of logs is the log of the geometric mean of ratios. Pairing by token takes out how
hard a token is for both. Massive tokens are kept apart and reported beside: there are one to three of them, which no bootstrap can judge, and they
can go the other way (DFRot, arXiv 2412.00648). They are called kept where B loses at least 1.25 times less of them, ruined where it loses 1.25
times more.

The interval is the percentile interval (Efron and Tibshirani 1993) of a circular block bootstrap (Politis and Romano 1992): neighbouring tokens
resemble each other, so runs of BLOCK tokens are drawn together; drawing single tokens would make intervals too narrow. All places share the same
draws from one seed, so that the same input gives the same interval. Massive tokens are taken out before the runs are cut.

MARGIN is practical, not statistical: 512 tokens tell differences of a thousandth apart that no perplexity shows.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotviz.capture.capture import Capture
from rotviz.errors import BadInput
from rotviz.evaluation.sites import Turn, massive_rows, rounded, site_rows
from rotviz.evaluation.verdict import HELPS, HURTS, SAME, UNKNOWN
from rotviz.numerics.statistics import channel_rms, excess_kurtosis
from rotviz.types import CACHE_SITES, QUANTIZED_SITES, SLOT_OF_SITE, QuantSpec, Site

MARGIN = math.log(1.01)
BLOCK = 8
"""Neighbouring tokens that are drawn together; near the T^(1/3) that is usual for T = 512."""
RESAMPLES = 2000
LEVEL = 0.95
FEWEST = 2
"""Blocks of ordinary tokens: with fewer nothing is told."""
MASSIVE_FACTOR = 1.25
GAUSSIAN = 0.5
"""Excess kurtosis below which numbers count as Gaussian (0) or flatter: every rotation leaves about that."""
LOUD = 4.0
"""A channel is an outlier where its rms is so many times the median channel's."""
_FLOOR = 1e-15


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the interval of a bootstrap; NaN where there were too few values."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Tails:
    """The ordinary rows of a place under one rotation: excess kurtosis of their numbers, loudest channel's rms over the median channel's."""

    kurtosis: float
    loudest: float


@dataclass(frozen=True, slots=True)
class Place:
    """The verdict at one block and site.

    Attributes:
        kind: HELPS, SAME, HURTS, or UNKNOWN with too few tokens.
        ratio, low, high: geometric mean of e(B) / e(A) over ordinary tokens, and its interval.
        error_a, error_b: share of energy lost, median over ordinary tokens.
        massive_a, massive_b: share lost of the massive tokens' energy; NaN without one.
        tokens, massive: how many ordinary and massive tokens.
        before, after: tails of the ordinary rows under A and B.
        reason: why, in words.
    """

    block: int
    site: Site
    kind: str
    ratio: float
    low: float
    high: float
    error_a: float
    error_b: float
    massive_a: float
    massive_b: float
    tokens: int
    massive: int
    before: Tails
    after: Tails
    reason: str

    @property
    def massive_words(self) -> str:
        """`kept`, `ruined`, `as before`, or nothing without a massive token."""
        if not (self.massive_a > 0 and self.massive_b > 0):
            return ""
        factor = self.massive_b / self.massive_a
        return "kept" if factor < 1 / MASSIVE_FACTOR else "ruined" if factor > MASSIVE_FACTOR else "as before"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"site": str(self.site), "massive_verdict": self.massive_words}


def verdicts(capture: Capture, a: Turn, b: Turn, spec: QuantSpec, seed: int = 0, progress: Callable[[float, str], None] | None = None) -> list[Place]:
    """The verdict on B against A at every block and quantized site.

    Args:
        capture: a text read by the model.
        a, b: the rotations; B is judged.
        spec: the grid.
        seed: of the bootstrap.
        progress: called with the share done and a few words.

    Raises:
        BadInput: a saved rotation is for another model.
    """
    found: list[Place] = []
    for block in range(capture.blocks):
        if progress:
            progress(block / capture.blocks, f"block {block + 1} of {capture.blocks}")
        found += block_verdicts(capture, block, a, b, spec, seed)
    return found


def block_verdicts(capture: Capture, block: int, a: Turn, b: Turn, spec: QuantSpec, seed: int = 0) -> list[Place]:
    """The verdicts at every quantized site of one block."""
    return [judge_place(capture, block, site, a, b, spec, seed) for site in QUANTIZED_SITES]


def judge_place(capture: Capture, block: int, site: Site, a: Turn, b: Turn, spec: QuantSpec, seed: int = 0) -> Place:
    """The verdict at one block and site; UNKNOWN where the grid's group does not divide its width."""
    massive = massive_rows(capture, block, site)
    refusal = _refusal(capture, block, site, spec)
    if refusal:
        return _unjudged(block, site, massive, refusal)
    one = _measured(capture, block, site, a, spec, massive)
    other = one if a == b or not (a.acts_on(site) or b.acts_on(site)) else _measured(capture, block, site, b, spec, massive)
    known = (one.energy > 0) & (other.energy > 0) & ~massive
    shares = [np.maximum(m.error[known] / m.energy[known], _FLOOR) for m in (one, other)]
    interval = bootstrap(np.log(shares[1] / shares[0]), seed)
    kind = kind_of(interval)
    parts = [_share(m, massive) for m in (one, other)]
    medians = [float(np.median(s)) if s.size else math.nan for s in shares]
    place = Place(block, site, kind, *(math.exp(v) for v in (interval.mean, interval.low, interval.high)), *medians, *parts, int(known.sum()),
                  int(massive.sum()), one.tails, other.tails, "")
    return _with_reason(place, a, b)


def _refusal(capture: Capture, block: int, site: Site, spec: QuantSpec) -> str:
    """Why the grid does not fit a site, or nothing."""
    try:
        spec.group_for(capture.head_width if site in CACHE_SITES else capture.site(block, site).shape[-1])
    except BadInput as error:
        return str(error)
    return ""


def _unjudged(block: int, site: Site, massive: np.ndarray, reason: str) -> Place:
    blank = Tails(math.nan, math.nan)
    return Place(block, site, UNKNOWN, *(math.nan,) * 7, int((~massive).sum()), int(massive.sum()), blank, blank, reason)


def bootstrap(values: np.ndarray, seed: int = 0, level: float = LEVEL, resamples: int = RESAMPLES, block: int = BLOCK) -> Interval:
    """The mean of values [T] in their order, and its interval by a circular block bootstrap.

    Every resample draws ceil(T / block) runs of `block` neighbours (the last value's neighbour is the first). The mean of a run is a moving mean, so
    that a resample is a mean of moving means: one gather and one mean for all resamples.
    """
    total = len(values)
    if total < FEWEST * block or not np.isfinite(values).all():
        return Interval(math.nan, math.nan, math.nan)
    runs = moving_means(values, block)[_starts(total, block, resamples, seed)].mean(axis=1)
    low, high = np.quantile(runs, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def moving_means(values: np.ndarray, block: int) -> np.ndarray:
    """Mean of each run of `block` neighbours, [T]: run t holds values t ... t + block - 1, around the end."""
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[:block - 1]]))])
    return (sums[block:] - sums[:-block]) / block


def kind_of(interval: Interval, margin: float = MARGIN) -> str:
    """The verdict that an interval of mean log ratios stands for."""
    if math.isnan(interval.mean):
        return UNKNOWN
    return HELPS if interval.high < -margin else HURTS if interval.low > margin else SAME


def counted(places: Sequence[Place]) -> dict[str, int]:
    """How many places of each kind."""
    found = Counter(p.kind for p in places)
    return {kind: found[kind] for kind in (HELPS, SAME, HURTS, UNKNOWN)}


def summary_words(places: Sequence[Place], name_a: str, name_b: str) -> str:
    """`hadamard against none helps at 97 of 120 places, makes no difference at 20 and hurts at 3 (...).`"""
    counts, total = counted(places), len(places)
    words = (f"{name_b} against {name_a} helps at {counts[HELPS]} of {total} places, makes no difference at {counts[SAME]} "
             f"and hurts at {counts[HURTS]}")
    worst = sorted((p for p in places if p.kind == HURTS), key=lambda p: -p.ratio)
    if worst:
        named = ", ".join(f"{p.site} of block {p.block} ({_times(p.ratio)})" for p in worst[:3])
        words += f", most at {named}"
    unknown = f" At {counts[UNKNOWN]} nothing can be told: too few tokens, or a group that does not divide the width." if counts[UNKNOWN] else ""
    return f"{words}.{unknown}{_massive_sentence(places)}"


def _massive_sentence(places: Sequence[Place]) -> str:
    said = Counter(p.massive_words for p in places if p.massive_words)
    if not said:
        return ""
    return (f" Massive tokens: kept at {said['kept']} of the {sum(said.values())} places that have any, ruined at {said['ruined']}, "
            f"as before at {said['as before']}.")


@dataclass(frozen=True)
class _Measured:
    """Error and energy of every row, float64 [T] each, and the ordinary rows' tails."""

    error: np.ndarray
    energy: np.ndarray
    tails: Tails


def _measured(capture: Capture, block: int, site: Site, turn: Turn, spec: QuantSpec, massive: np.ndarray) -> _Measured:
    rows = site_rows(capture, block, site, turn)
    lost = (rows - rounded(rows, site, spec, capture.head_width)).double().square().sum(-1).numpy()
    return _Measured(lost, rows.double().square().sum(-1).numpy(), _tails(rows[torch.from_numpy(~massive)]))


def _tails(rows: Tensor) -> Tails:
    if not len(rows):
        return Tails(math.nan, math.nan)
    sizes = channel_rms(rows)
    middle = float(sizes.median())
    return Tails(excess_kurtosis(rows), float(sizes.max()) / middle if middle > 0 else math.nan)


def _share(measured: _Measured, mask: np.ndarray) -> float:
    energy = float(measured.energy[mask].sum())
    return float(measured.error[mask].sum()) / energy if energy > 0 else math.nan


def _starts(total: int, block: int, resamples: int, seed: int) -> np.ndarray:
    """Where the runs of every resample begin, [resamples, runs]; the same for all places of as many tokens."""
    return np.random.default_rng(seed).integers(0, total, (resamples, -(-total // block)))


def _with_reason(place: Place, a: Turn, b: Turn) -> Place:
    return replace(place, reason="; ".join(_reasons(place, a, b)))


def _reasons(place: Place, a: Turn, b: Turn) -> Iterator[str]:
    """Why, most telling first."""
    if place.kind == UNKNOWN:
        needed = FEWEST * BLOCK
        few = f"too few tokens: {place.tokens} ordinary ones of the {needed} that are needed"
        yield few if place.tokens < needed else "an error is no finite number"
        return
    if not (a.acts_on(place.site) or b.acts_on(place.site)):
        yield f"neither turns this site (slot {SLOT_OF_SITE[place.site]})"
        return
    if a == b:
        yield "A and B are the same"
        return
    yield _shape_words(place)
    if place.massive_words:
        word = f"massive token{'s' if place.massive > 1 else ''} {place.massive_words}"
        yield f"{word}: loses {_percent(place.massive_a)} → {_percent(place.massive_b)}"


def _shape_words(place: Place) -> str:
    before, after = place.before, place.after
    change = f"kurtosis {short_number(before.kurtosis)} → {short_number(after.kurtosis)}"
    if before.kurtosis < GAUSSIAN and after.kurtosis < GAUSSIAN:
        return f"already Gaussian or flatter: {change}"
    if before.loudest > LOUD and after.loudest < before.loudest / 2:
        return f"outlier channels spread: {change}, loudest channel {short_number(before.loudest)} → {short_number(after.loudest)} times the median"
    if after.loudest > LOUD and before.loudest < after.loudest / 2:
        return f"outlier channels gathered: {change}, loudest channel {short_number(before.loudest)} → {short_number(after.loudest)} times the median"
    return f"{'lighter' if after.kurtosis < before.kurtosis else 'heavier'} tails: {change}"


def short_number(value: float) -> str:
    """Two figures, thousands separated."""
    if not math.isfinite(value):
        return "no number"
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times the error"
