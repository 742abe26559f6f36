"""A captured site before and after a rotation: what the numbers look like and what rounding them loses, token by token.

Nothing is run again: the rows that a capture kept are turned and rounded. That is the error in isolation (each site with the float model's own
input); errors that pile up over the blocks come from a run (pipeline).

    site                  slot   what is turned
    attn_in, mlp_in,      R1     the whole width, after the norm's gain is folded away (resid: the stream itself)
    resid
    o_in, value           R2     each head
    key                   R3     each head
    down_in               R4     the whole width

A site whose slot is not among the chosen ones, or any site under the method "none", is shown as the original model has it, gains and all.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotviz.capture.capture import Capture
from rotviz.evaluation.errors import massive_mask
from rotviz.numerics.grids import fake_quantize
from rotviz.numerics.rotation import Rotation
from rotviz.rotations import ROTATIONS
from rotviz.surgery.plan import generator_for
from rotviz.types import CACHE_SITES, SLOT_OF_SITE, Granularity, QuantSpec, Site, Slot

ALL_SLOTS = tuple(Slot)
BY_HEAD = (Site.O_IN, Site.KEY, Site.VALUE)
SMALL = 256
"""Rotations up to this size are kept by the hundred."""


@dataclass(frozen=True)
class Turn:
    """A rotation method as a page or a script chooses it. Frozen and hashable: it is a cache key.

    Attributes:
        method: registered name; "none" leaves everything as it is.
        seed: of the rotation.
        slots: where it acts.
        settings: the method's own configuration; None = its defaults.
    """

    method: str
    seed: int = 0
    slots: tuple[Slot, ...] = ALL_SLOTS
    settings: Any = None

    @property
    def label(self) -> str:
        """A short name for legends."""
        return self.method if self.method == "none" else f"{self.method} (seed {self.seed})"

    def acts_on(self, site: Site) -> bool:
        """Whether the site is turned."""
        return self.method != "none" and SLOT_OF_SITE[site] in self.slots


@dataclass(frozen=True)
class TokenErrors:
    """What rounding one site of one block loses, token by token.

    relative [T]: |x - Q(x)|^2 / |x|^2 of each token (row); massive [T]: which tokens are massive in the block's output; the means are over
    energy (sum of errors / sum of energies), NaN where there is no such token.
    """

    relative: np.ndarray
    massive: np.ndarray
    all: float
    mean_massive: float
    mean_ordinary: float


def site_rows(capture: Capture, block: int, site: Site, turn: Turn) -> Tensor:
    """Rows [T, width] of a site under a turn, float32."""
    if not turn.acts_on(site):
        return capture.site(block, site)
    rows = capture.site(block, site, folded=True)
    size = capture.head_width if site in BY_HEAD else rows.shape[-1]
    return rotation_of(turn, site, size, block).apply(rows.unflatten(-1, (-1, size))).flatten(-2)


def rotation_of(turn: Turn, site: Site, size: int, block: int) -> Rotation:
    """The rotation that a plan with this seed puts in the site's slot of this block (surgery.plan.make_plan)."""
    slot = SLOT_OF_SITE[site]
    build = _built_small if size <= SMALL else _built
    return build(turn.method, turn.settings, turn.seed, slot, size, block if slot is Slot.R2 else 0)


def _build(method: str, settings: Any, seed: int, slot: Slot, size: int, block: int) -> Rotation:
    return (settings or ROTATIONS[method]()).build(slot, size, generator_for(seed, slot, block))


# All blocks share one rotation in R1, R3 and R4, and a Haar rotation of 1536 channels takes a second to draw.
_built = lru_cache(maxsize=8)(_build)
_built_small = lru_cache(maxsize=512)(_build)


def rounded(rows: Tensor, site: Site, spec: QuantSpec, head_width: int) -> Tensor:
    """Rows [T, width] after rounding as a run would: keys and values head by head, everything else token by token."""
    if site not in CACHE_SITES:
        return fake_quantize(rows, spec)
    by_head = replace(spec, granularity=Granularity.HEAD)
    return fake_quantize(rows.unflatten(-1, (-1, head_width)), by_head).flatten(-2)


def token_errors(capture: Capture, block: int, site: Site, turn: Turn, spec: QuantSpec) -> TokenErrors:
    """The error of every token at one site."""
    rows = site_rows(capture, block, site, turn)
    error, energy = _sums(rows, rounded(rows, site, spec, capture.head_width), axis=-1)
    massive = massive_rows(capture, block, site)
    return TokenErrors(_ratio(error, energy), massive, float(error.sum() / energy.sum()), _mean(error, energy, massive),
                       _mean(error, energy, ~massive))


def channel_errors(capture: Capture, block: int, site: Site, turn: Turn, spec: QuantSpec) -> np.ndarray:
    """Mean squared error of every channel, [width]: absolute, because a channel's own energy says little after a rotation."""
    rows = site_rows(capture, block, site, turn)
    error, _ = _sums(rows, rounded(rows, site, spec, capture.head_width), axis=0)
    return error / len(rows)


@dataclass(frozen=True)
class BlockErrors:
    """Relative MSE of one site at every block: [blocks] each, NaN where there is no such token."""

    all: np.ndarray
    massive: np.ndarray
    ordinary: np.ndarray


def block_errors(capture: Capture, site: Site, turn: Turn, spec: QuantSpec) -> BlockErrors:
    """The error of one site at every block."""
    found = [token_errors(capture, block, site, turn, spec) for block in range(capture.blocks)]
    return BlockErrors(np.array([e.all for e in found]), np.array([e.mean_massive for e in found]), np.array([e.mean_ordinary for e in found]))


def massive_rows(capture: Capture, block: int, site: Site) -> np.ndarray:
    """Which rows of a site belong to massive tokens: massive in the block's input, and for `resid` in its output. bool [rows]."""
    after = site is Site.RESID
    stream = capture.site(block, Site.RESID) if after else capture.site(block - 1, Site.RESID) if block else capture.embedding()
    mask = massive_mask(stream)
    owners = capture.tokens_of_rows(block, site)
    return (mask if owners is None else mask[owners]).numpy()


def _sums(rows: Tensor, after: Tensor, axis: int) -> tuple[np.ndarray, np.ndarray]:
    error = (rows - after).square().sum(axis, dtype=torch.float64)
    return error.numpy(), rows.square().sum(axis, dtype=torch.float64).numpy()


def _ratio(error: np.ndarray, energy: np.ndarray) -> np.ndarray:
    return np.divide(error, energy, out=np.zeros_like(error), where=energy > 0)


def _mean(error: np.ndarray, energy: np.ndarray, mask: np.ndarray) -> float:
    return float(error[mask].sum() / energy[mask].sum()) if mask.any() else float("nan")
