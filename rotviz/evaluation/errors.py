"""Error by block and site while a walk goes on: what each rounding loses where it happens, and how much of it arrives.

    local        |x - Q(x)|^2 / |x|^2 of one rounding, on the numbers it is given          (attn_in, o_in, mlp_in, down_in, key, value)
    accumulated  |h' - h|^2 / |h|^2 of the residual stream after the block, everything so far quantized            (resid)
    isolated     the same when only this block is quantized and its input is the float model's                    (resid)

The walk measures on its first batch of windows, the isolated error on the first 512 tokens of it.

h' is turned back by R1 first. Massive and ordinary tokens are kept apart: one massive token holds most of the energy and hides the rest.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from rotviz.numerics.errors import SplitError, ratio, split_error, sqnr_db
from rotviz.numerics.massive import RATIO
from rotviz.types import Site


@dataclass(frozen=True, slots=True)
class SiteError:
    """Relative MSE at one site of one block; NaN where there are no such tokens or it was not measured."""

    block: int
    site: str
    relative_mse: float
    sqnr_db: float
    massive: float
    ordinary: float
    isolated: float = math.nan

    def to_dict(self) -> dict[str, float | int | str]:
        return asdict(self)


def massive_mask(hidden: Tensor) -> Tensor:
    """Which tokens of [..., T, D] hold a number beyond 1000 times the median magnitude: bool [..., T]."""
    return beyond(hidden, massive_limit(hidden))


def massive_limit(hidden: Tensor) -> Tensor:
    """1000 times the median magnitude of [..., T, D]."""
    return RATIO * hidden.abs().median()


def beyond(hidden: Tensor, limit: Tensor) -> Tensor:
    """Which tokens of [..., T, D] hold a magnitude of at least `limit`: bool [..., T]."""
    return hidden.abs().amax(-1) >= limit


def site_error(block: int, site: Site, split: SplitError, isolated: float = math.nan) -> SiteError:
    """A SiteError from a split error."""
    return SiteError(block, str(site), split.all, sqnr_db(split.all) if not math.isnan(split.all) else math.nan, split.massive,
                     split.ordinary, isolated)


class SiteMeter:
    """Adds up what roundings lose; a Meter for surgery.online.

    Args:
        massive: bool [T], which tokens of the measured windows are massive in the block's input.
    """

    def __init__(self, massive: Tensor) -> None:
        self.on = True
        self.restart(massive)

    def restart(self, massive: Tensor) -> None:
        """Forget what was measured and begin again, with other windows."""
        self.massive = massive
        self._sums: dict[Site, Tensor] = {}

    def __call__(self, site: Site, before: Tensor, after: Tensor) -> None:
        if not self.on:
            return
        before, after = before.reshape(-1, before.shape[-1]), after.reshape(-1, after.shape[-1])
        error = (before - after).square().sum(-1, dtype=torch.float64)
        energy = before.square().sum(-1, dtype=torch.float64)
        aligned = len(before) == len(self.massive)  # rows of routed experts are not
        mask = self.massive if aligned else torch.zeros(len(before), dtype=torch.bool, device=before.device)
        known = 1.0 if aligned else math.nan
        sums = torch.tensor([float(error.sum()), float(energy.sum()), known * float(error[mask].sum()), known * float(energy[mask].sum())],
                            dtype=torch.float64)
        self._sums[site] = self._sums.get(site, torch.zeros(4, dtype=torch.float64)) + sums

    def errors(self, block: int) -> list[SiteError]:
        """One entry for each site that was rounded, in the order of first use."""
        return [site_error(block, site, _split(*sums.tolist())) for site, sums in self._sums.items()]


def residual_error(block: int, reference: Tensor, quantized: Tensor, isolated: float) -> SiteError:
    """The accumulated error of the residual stream [T, D] after a block."""
    return site_error(block, Site.RESID, split_error(reference, quantized, massive_mask(reference)), isolated)


def _split(error: float, energy: float, massive_error: float, massive_energy: float) -> SplitError:
    def part(e: float, total: float) -> float:
        return math.nan if math.isnan(total) or total == 0 else ratio(e, total)

    return SplitError(ratio(error, energy), part(massive_error, massive_energy), part(error - massive_error, energy - massive_energy))
