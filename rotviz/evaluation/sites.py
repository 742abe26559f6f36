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

A turn may take its matrices from the file of a saved rotation (surgery/saved.py), which is how learned ones are looked at. There the heads of a block
may differ in R2: values are turned each by their own key-value head's matrix, and o_in's query heads by that of the head they read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotviz.capture.capture import Capture
from rotviz.errors import BadInput
from rotviz.evaluation.errors import massive_mask
from rotviz.numerics.errors import SplitError
from rotviz.numerics.grids import fake_quantize
from rotviz.numerics.rotation import Rotation
from rotviz.rotations import ROTATIONS
from rotviz.surgery.plan import RotationPlan, generator_for
from rotviz.surgery.saved import load_plan
from rotviz.types import CACHE_SITES, SLOT_OF_SITE, Granularity, QuantSpec, Site, Slot

ALL_SLOTS = tuple(Slot)
BY_HEAD = (Site.O_IN, Site.KEY, Site.VALUE)
R1_SITES = (Site.ATTN_IN, Site.MLP_IN)
"""What R1 turns for the linear layers: where rotations of the residual stream are compared."""
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
        file: a saved rotation whose matrices are taken as they are; method and seed then say where they came from. Slots that the file lacks
            turn nothing.
    """

    method: str
    seed: int = 0
    slots: tuple[Slot, ...] = ALL_SLOTS
    settings: Any = None
    file: str = ""

    @property
    def label(self) -> str:
        """A short name for legends."""
        mark = f", {mark_of(self.file)}" if self.file else ""
        return self.method if self.method == "none" else f"{self.method} (seed {self.seed}{mark})"

    def acts_on(self, site: Site) -> bool:
        """Whether the site is turned."""
        slot = SLOT_OF_SITE[site]
        return self.method != "none" and slot in self.slots and (not self.file or slot in saved_plan(self.file).slots)


def mark_of(file: str | Path) -> str:
    """The last four letters of a saved rotation's name, which are enough to tell it from others."""
    return Path(file).stem[-4:]


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
    """Rows [T, width] of a site under a turn, float32.

    Raises:
        BadInput: the turn's file cannot be read or is for another model.
    """
    if not turn.acts_on(site):
        return capture.site(block, site)
    rows = capture.site(block, site, folded=True)
    size = capture.head_width if site in BY_HEAD else rows.shape[-1]
    if turn.file:
        return _turned(rows, rotations_in_file(turn.file, site, size, block, capture))
    return _turned(rows, [rotation_of(turn, site, size, block)])


def _turned(rows: Tensor, heads: Sequence[Rotation]) -> Tensor:
    """Rows [T, parts x size] with each part turned: all by one rotation, or by several, each serving as many neighbouring parts."""
    parts = rows.unflatten(-1, (len(heads), -1, heads[0].size))
    return torch.stack([rotation.apply(parts[:, head]) for head, rotation in enumerate(heads)], 1).flatten(1)


def rotation_of(turn: Turn, site: Site, size: int, block: int) -> Rotation:
    """The rotation that a plan with this seed puts in the site's slot of this block (surgery.plan.make_plan)."""
    slot = SLOT_OF_SITE[site]
    build = _built_small if size <= SMALL else _built
    return build(turn.method, turn.settings, turn.seed, slot, size, block if slot is Slot.R2 else 0)


def saved_plan(file: str) -> RotationPlan:
    """The plan in a file, kept until the file changes."""
    path = Path(file)
    return _plan(file, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=8)
def _plan(file: str, changed: int) -> RotationPlan:
    plan = load_plan(Path(file))[0]
    alike = tuple(heads[:1] if all(torch.equal(heads[0].dense(), h.dense()) for h in heads[1:]) else heads for heads in plan.r2)
    return replace(plan, r2=alike)  # one rotation for all heads is one product and not many


def rotations_in_file(file: str, site: Site, size: int, block: int, capture: Capture) -> Sequence[Rotation]:
    """What a file holds for a site of a block: one rotation, or one for each key-value head where they differ."""
    plan, slot = saved_plan(file), SLOT_OF_SITE[site]
    if slot is Slot.R2:
        fits, found = len(plan.r2) == capture.blocks, plan.r2[min(block, len(plan.r2) - 1)]
        fits = fits and len(found) in (1, capture.kv_heads)
    elif slot is Slot.R4:
        found, fits = [plan.r4.get(size) or next(iter(plan.r4.values()))], size in plan.r4
    else:
        found, fits = [plan.r1 if slot is Slot.R1 else plan.r3], True
    if not fits or found[0].size != size:
        here = f"{capture.blocks} blocks of {capture.kv_heads} key-value heads of {size}" if slot is Slot.R2 else f"size {size}"
        there = f"{len(plan.r2)} blocks of heads of {found[0].size}" if slot is Slot.R2 else f"size {found[0].size}"
        raise BadInput(f"{file} is for another model: its {slot} has {there}, this model needs {here}; choose a rotation learned on this model")
    return found


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
    """Mean squared error of every channel over the mean square of the site, [width]; their mean is the site's relative MSE.

    Not over the channel's own energy, which says little after a rotation; and not absolute, since a rotation takes the norm's gain away and with it
    the unit.
    """
    rows = site_rows(capture, block, site, turn)
    error, energy = _sums(rows, rounded(rows, site, spec, capture.head_width), axis=0)
    return error / energy.mean()


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


def r1_error(capture: Capture, turn: Turn, spec: QuantSpec) -> SplitError:
    """Relative MSE over everything that R1 turns for the linear layers, all blocks together: sum of errors / sum of energies."""
    sums = np.zeros((2, 2))  # massive or ordinary, error and energy
    for block in range(capture.blocks):
        massive = massive_rows(capture, block, R1_SITES[0])  # those of the block's input, so the same at both sites
        for site in R1_SITES:
            rows = site_rows(capture, block, site, turn)
            found = _sums(rows, rounded(rows, site, spec, capture.head_width), axis=-1)
            sums += [[part[mask].sum() for part in found] for mask in (massive, ~massive)]
    (massive_error, massive_energy), (error, energy) = sums

    def share(lost: float, whole: float) -> float:
        return float(lost / whole) if whole > 0 else float("nan")

    return SplitError(share(massive_error + error, massive_energy + energy), share(massive_error, massive_energy), share(error, energy))


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
