"""The rotation lens: captured rows on the straight way from no rotation to a rotation, and what each stop of the way looks like.

The way is the geodesic R(t) of numerics/geodesic.py, R(0) = I and R(1) = R, which turns every plane of R evenly. A rotation that acts head by head
is walked head by head. In the basis V in which R is diagonal a step along the way costs one product and no new decomposition:

    x R(t) = Re[(x V) diag(e^(i t theta)) V^H] = [Re z, Im z] [Re V, Im V]^T,    z = (x V) e^(i t theta),    x V computed once

so that a slider can follow it. Decompositions are kept for the rotations that were last used. A decomposition takes time n^3: beyond `WIDEST`
channels the lens refuses in words. Of long texts and wide sites an even sample of the tokens is looked at, all massive ones among them.

The start of the way is what the slot turns: behind a norm, the rows without the norm's gain, which is folded into the weights first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rotviz.capture.capture import Capture
from rotviz.errors import BadInput
from rotviz.evaluation.sites import BY_HEAD, SMALL, Turn, massive_rows, rotation_of, rotations_in_file, rounded
from rotviz.numerics.errors import relative_mse
from rotviz.numerics.geodesic import geodesic
from rotviz.numerics.rotation import Rotation
from rotviz.numerics.statistics import summarize
from rotviz.types import SITE_WORDS, QuantSpec, Site

WIDEST = 2048
TOKENS = 512
NUMBERS = 1 << 19
"""Numbers of a site that are turned at each stop, at most: what a slider can follow on two cores."""
STOPS = tuple(round(i / 20, 2) for i in range(21))
"""The stops of the slider, each of which the curve has measured."""


@dataclass(frozen=True)
class Way:
    """The geodesic of one rotation in float32: `basis` is [Re V, Im V]^T, [2n, n]; `angles` [n]."""

    vectors: Tensor
    basis: Tensor
    angles: Tensor
    flipped: bool

    def turned(self, seen: Tensor, t: float) -> Tensor:
        """x R(t) for `seen` = x V, complex [..., n]."""
        z = seen * torch.polar(torch.ones_like(self.angles), t * self.angles)
        return torch.cat([z.real, z.imag], -1) @ self.basis


@dataclass(frozen=True)
class Measures:
    """What some tokens look like at a stop: share of energy that rounding loses, excess kurtosis, mean peak ratio of a token, largest |x|."""

    error: float
    kurtosis: float
    peak_ratio: float
    absmax: float


@dataclass(frozen=True)
class Stop:
    """A stop of the way. `massive` and `ordinary` are None where there is no such token."""

    t: float
    all: Measures
    massive: Measures | None
    ordinary: Measures | None


@dataclass(frozen=True)
class Spike:
    """A large number: its row in the lens, channel and value at the start, and the position of its row in the capture."""

    row: int
    channel: int
    value: float
    position: int


@dataclass(frozen=True)
class Lens:
    """The rows of one site on the way to a rotation.

    Attributes:
        ways: one for all parts of a row, or one for every so many neighbouring parts.
        seen: x V of the parts, complex [T, ways, parts, n].
        start: the rows at t = 0, [T, width] float32.
        positions: which rows of the capture these are.
        massive: which of them belong to massive tokens.
    """

    ways: tuple[Way, ...]
    seen: Tensor
    start: Tensor
    positions: np.ndarray
    massive: np.ndarray
    site: Site
    head_width: int

    @property
    def flipped(self) -> bool:
        """Whether some rotation is a reflection: the way then ends with a channel mirrored."""
        return any(way.flipped for way in self.ways)

    def rows(self, t: float) -> Tensor:
        """The rows at t, [T, width] float32."""
        if t == 0:
            return self.start
        return torch.stack([way.turned(self.seen[:, i], t) for i, way in enumerate(self.ways)], 1).flatten(1)

    def row_of_rotation(self, channel: int, t: float) -> np.ndarray:
        """Row `channel` of R(t) as it acts on the whole width, [width]: where that channel's number goes, and with which weight."""
        size = self.ways[0].angles.numel()
        part, inner = divmod(channel, size)
        way = self.ways[part // (self.seen.shape[2])]
        found = np.zeros(self.start.shape[1], dtype=np.float32)
        found[part * size : (part + 1) * size] = way.turned(way.vectors[inner], t).numpy()
        return found

    def stop(self, t: float, spec: QuantSpec) -> Stop:
        """The numbers of a stop."""
        rows = self.rows(t)
        after = rounded(rows, self.site, spec, self.head_width)
        mask = torch.from_numpy(self.massive)
        return Stop(t, _measures(rows, after), *(_measures(rows[m], after[m]) if bool(m.any()) else None for m in (mask, ~mask)))

    def spikes(self, top: int = 8) -> list[Spike]:
        """The largest |x| of the start, one for each token, largest first."""
        peaks, channels = self.start.abs().max(dim=1)
        order = peaks.argsort(descending=True)[:top].tolist()
        return [Spike(r, int(channels[r]), float(self.start[r, channels[r]]), int(self.positions[r])) for r in order]


def lens_on(capture: Capture, block: int, site: Site, turn: Turn) -> Lens:
    """The lens on one site of one block; the decomposition of a new rotation takes a second at 576 channels.

    Raises:
        BadInput: the turn leaves the site alone, or its rotation is too wide to be decomposed.
    """
    if not turn.acts_on(site):
        raise BadInput(f"{turn.label} leaves the {SITE_WORDS[site]} as it is: choose a rotation whose slots include this site's")
    rows = capture.site(block, site, folded=True)
    size = capture.head_width if site in BY_HEAD else rows.shape[-1]
    if size > WIDEST:
        raise BadInput(f"the lens takes rotations of up to {WIDEST} channels apart, and here {size} turn together; "
                       f"choose a site that turns head by head ({', '.join(BY_HEAD)}) or a smaller model")
    rotations = rotations_in_file(turn.file, site, size, block, capture) if turn.file else [rotation_of(turn, site, size, block)]
    massive = massive_rows(capture, block, site)
    kept = sample(massive, rows.shape[1])
    ways, start = tuple(_way(r) for r in rotations), rows[torch.from_numpy(kept)].contiguous()
    return Lens(ways, _in_bases(start, ways, size), start, kept, massive[kept], site, capture.head_width)


def sample(massive: np.ndarray, width: int) -> np.ndarray:
    """Which rows are looked at, in order: every massive one, and of the others as many at even distances as there is room for."""
    room = max(2, min(TOKENS, NUMBERS // width))
    if len(massive) <= room:
        return np.arange(len(massive))
    heavy, others = np.flatnonzero(massive)[:room], np.flatnonzero(~massive)
    even = np.linspace(0, len(others) - 1, max(0, room - len(heavy))).round().astype(int)
    return np.union1d(heavy, others[even] if len(others) else others)


def channels_for(share: float, energies: np.ndarray) -> int:
    """How many channels, the largest first, hold this share of the energy."""
    ordered = np.sort(np.asarray(energies, dtype=np.float64))[::-1].cumsum()
    return int(np.searchsorted(ordered, share * ordered[-1] * (1 - 1e-9)) + 1) if ordered[-1] > 0 else 0


def _in_bases(rows: Tensor, ways: Sequence[Way], size: int) -> Tensor:
    parts = rows.unflatten(-1, (len(ways), -1, size)).to(torch.complex64)
    return torch.stack([parts[:, i] @ way.vectors for i, way in enumerate(ways)], 1)


def _way(rotation: Rotation) -> Way:
    return (_way_small if rotation.size <= SMALL else _way_large)(rotation)


def _decomposed(rotation: Rotation) -> Way:
    found = geodesic(rotation)
    basis = torch.cat([found.vectors.real, found.vectors.imag], 1).T.float().contiguous()
    return Way(found.vectors.to(torch.complex64), basis, found.angles.float(), found.flipped)


# Rotations are kept by sites.py, so that the same one is the same object and serves as a key.
_way_small = lru_cache(maxsize=256)(_decomposed)
_way_large = lru_cache(maxsize=4)(_decomposed)


def _measures(rows: Tensor, after: Tensor) -> Measures:
    found = summarize(rows)
    return Measures(relative_mse(rows, after), found.kurtosis, found.peak_ratio, found.absmax)
